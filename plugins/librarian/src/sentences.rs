//! Sentences of a paragraph that are worth quoting.

/// Splits at `.`, `!`, `?` and their wide forms where a new sentence begins, not within `code` and not after an
/// abbreviation. Leaves out what is hardly a sentence; cuts what is too long at a blank.
pub(crate) fn split(paragraph: &str) -> Vec<String> {
    let (mut sentences, mut start, mut in_code) = (Vec::new(), 0, false);
    for (index, c) in paragraph.char_indices() {
        in_code ^= c == '`';
        let end = index + c.len_utf8();
        if !in_code && ends_here(paragraph, start, index, c) {
            let closing = paragraph.get(end..).unwrap_or_default();
            let closing = closing.chars().take_while(|c| "\"')]”’»*".contains(*c)).map(char::len_utf8).sum::<usize>();
            push(&mut sentences, paragraph.get(start..end + closing).unwrap_or_default());
            start = end + closing;
        }
    }
    push(&mut sentences, paragraph.get(start..).unwrap_or_default());
    sentences
}

fn ends_here(text: &str, start: usize, index: usize, c: char) -> bool {
    if matches!(c, '。' | '！' | '？') {
        return true;
    }
    if !matches!(c, '.' | '!' | '?') || index < start {
        return false;
    }
    let mut rest = text.get(index + 1..).unwrap_or_default().chars().skip_while(|c| "\"')]”’»*".contains(*c));
    match rest.next() {
        None => return true,
        Some(blank) if blank.is_whitespace() => {}
        Some(_) => return false,
    }
    let begins = rest.find(|c| !c.is_whitespace()).is_none_or(|c| !c.is_lowercase());
    begins && !(c == '.' && is_abbreviation(text.get(start..index).unwrap_or_default()))
}

/// Whether the full stop after this text belongs to its last word: `e.g`, `Dr`, an initial.
fn is_abbreviation(before: &str) -> bool {
    let begin = before.rfind(|c: char| c.is_whitespace() || c == '(').map_or(0, |at| at + 1);
    let word = before.get(begin..).unwrap_or_default();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    initial || ABBREVIATIONS.iter().any(|each| each.eq_ignore_ascii_case(word))
}

fn push(sentences: &mut Vec<String>, text: &str) {
    let mut rest = text.trim();
    while rest.len() > MAX_BYTES {
        let mut limit = MAX_BYTES;
        while !rest.is_char_boundary(limit) {
            limit -= 1;
        }
        let (head, _) = rest.split_at(limit);
        let cut = head.rfind(char::is_whitespace).filter(|&cut| cut > 0).unwrap_or(limit);
        keep(sentences, rest.get(..cut).unwrap_or_default());
        rest = rest.get(cut..).unwrap_or_default().trim_start();
    }
    keep(sentences, rest);
}

/// At least four words (or, in scripts without blanks, ten letters), most of it letters, no code.
fn keep(sentences: &mut Vec<String>, text: &str) {
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let wide = text.chars().filter(|c| matches!(c, '\u{3040}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}')).count();
    let visible = text.chars().filter(|c| !c.is_whitespace()).count();
    let words = text.split_whitespace().filter(|word| word.contains(char::is_alphabetic)).count();
    let code = text.ends_with(['{', '}', ';', '\\']) || text.contains("::") && !text.contains('`');
    if (words >= 4 || wide >= 10) && letters * 10 >= visible * 7 && !code {
        sentences.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

const ABBREVIATIONS: [&str; 22] = [
    "e.g", "i.e", "etc", "cf", "vs", "dr", "mr", "mrs", "ms", "prof", "st", "no", "fig", "eq", "sec", "approx", "al",
    "inc", "ltd", "z.b", "bzw", "d.h",
];

/// A tenth of the contract's limit of a text; longer is no sentence any more.
const MAX_BYTES: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_new_one_begins() {
        let text = "Is this the first one? It is the first one! \"This one is quoted.\" See version 1.2.3 of file.rs for more of it.";
        let expected = [
            "Is this the first one?",
            "It is the first one!",
            "\"This one is quoted.\"",
            "See version 1.2.3 of file.rs for more of it.",
        ];
        assert_eq!(split(text), expected);
    }

    #[test]
    fn abbreviations_initials_and_code_do_not_end_a_sentence() {
        for text in [
            "Use a cipher, e.g. AES in counter mode.",
            "It was found by Dr. Ana B. Lovelace (cf. Fig. 3 above).",
            "Call `a. B. c` before the next request.",
            "Plugins cannot open sockets, files, etc. and never will.",
        ] {
            assert_eq!(split(text), [text]);
        }
    }

    #[test]
    fn what_is_hardly_a_sentence_is_left_out() {
        for text in
            ["", "Too short.", "a = b + c * 4 - 17 / 9 (x, y) => 12", "let the value be set now;", "--- --- --- ---"]
        {
            assert!(split(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn text_without_an_end_is_cut_at_blanks() {
        let pieces = split(&"word ".repeat(1000));
        assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() <= MAX_BYTES && piece.ends_with("word")));
        let unbroken = split(&"漢".repeat(1000));
        assert!(unbroken.iter().all(|piece| piece.len() <= MAX_BYTES));
        assert_eq!(unbroken.concat().len(), 3000);
    }

    #[test]
    fn other_scripts_are_split_too() {
        assert_eq!(
            split("会议室在前台预订可以吗？钥匙由门口的警卫保管着。"),
            ["会议室在前台预订可以吗？", "钥匙由门口的警卫保管着。"]
        );
        assert_eq!(split("Die Schlüssel hat der Wächter. Über Nacht bleibt alles zu.").len(), 2);
    }

    #[test]
    fn hostile_text_stays_linear() {
        for unit in [".", "?\"", "a. ", "`", "A. ", ". A", "\u{a0}", "é.", "\"", "\")"] {
            let _ = split(&unit.repeat((1 << 20) / unit.len()));
        }
    }
}
