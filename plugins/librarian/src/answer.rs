//! From ranked sentences to the answer's text.

/// A sentence that may be quoted.
pub(crate) struct Candidate {
    pub(crate) text: String,
    /// Index of the passage it is from.
    pub(crate) passage: usize,
    /// To the question, 0 to 1023.
    pub(crate) closeness: u16,
}

/// The `count` closest sentences, best first, each followed by the mark of its source; and the passages in the order of
/// their marks. Equal closeness keeps the order given. Sentences that differ in case, blanks or punctuation count as one.
pub(crate) fn compose(mut candidates: Vec<Candidate>, count: usize) -> (String, Vec<usize>) {
    candidates.sort_by_key(|each| std::cmp::Reverse(each.closeness));
    let (mut text, mut cited, mut said) = (String::new(), Vec::new(), Vec::new());
    for candidate in candidates {
        if said.len() == count {
            break;
        }
        let gist: String =
            candidate.text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        if said.contains(&gist) {
            continue;
        }
        said.push(gist);
        let mark = cited.iter().position(|&each| each == candidate.passage).unwrap_or_else(|| {
            cited.push(candidate.passage);
            cited.len() - 1
        });
        if !text.is_empty() {
            text.push(' ');
        }
        for part in [candidate.text.as_str(), " [", (mark + 1).to_string().as_str(), "]"] {
            text.push_str(part);
        }
    }
    (text, cited)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(text: &str, passage: usize, closeness: u16) -> Candidate {
        Candidate { text: text.to_owned(), passage, closeness }
    }

    #[test]
    fn marks_count_sources_in_order_of_appearance() {
        let candidates =
            vec![candidate("B.", 7, 10), candidate("A.", 3, 20), candidate("C.", 3, 5), candidate("D.", 1, 1)];
        assert_eq!(compose(candidates, 3), ("A. [1] B. [2] C. [1]".to_owned(), vec![3, 7]));
    }

    #[test]
    fn a_sentence_is_said_once() {
        let candidates =
            vec![candidate("Same  thing.", 0, 9), candidate("same thing", 1, 8), candidate("Other.", 1, 7)];
        assert_eq!(compose(candidates, 3), ("Same  thing. [1] Other. [2]".to_owned(), vec![0, 1]));
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(compose(Vec::new(), 4), (String::new(), Vec::new()));
    }
}
