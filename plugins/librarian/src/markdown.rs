//! The prose of a Markdown or plain text passage (CommonMark), as far as quoting needs it. One pass, no nesting.

/// Paragraphs and list items, each on one line. Leaves out code (fenced and indented), headings, tables, HTML and lines of
/// nothing but links and images; takes away list and quote markers, emphasis, link targets and marks like `[3]`.
pub(crate) fn paragraphs(text: &str) -> Vec<String> {
    let (mut paragraphs, mut current) = (Vec::new(), String::new());
    let (mut fence, mut after_blank) = (None, true);
    for line in text.lines() {
        let bare = unquoted(line);
        if let Some(open) = fence {
            if fence_of(bare) == Some(open) {
                fence = None;
            }
            continue;
        }
        if let Some(mark) = fence_of(bare) {
            flush(&mut current, &mut paragraphs);
            fence = Some(mark);
            continue;
        }
        let indented_code = after_blank && current.is_empty() && (line.starts_with("    ") || line.starts_with('\t'));
        let (item, content) = without_marker(bare);
        after_blank = bare.is_empty();
        if is_underline(bare) {
            // A setext heading: what stands above is a heading, not a sentence.
            current.clear();
            continue;
        }
        let inline = inline(content);
        if bare.is_empty() || is_block(bare) || inline.trim().is_empty() || indented_code && !item {
            flush(&mut current, &mut paragraphs);
            after_blank |= indented_code;
            continue;
        }
        if item {
            flush(&mut current, &mut paragraphs);
        }
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(inline.trim());
    }
    flush(&mut current, &mut paragraphs);
    paragraphs
}

fn flush(current: &mut String, paragraphs: &mut Vec<String>) {
    if !current.is_empty() {
        paragraphs.push(std::mem::take(current));
    }
}

/// The line without indentation and quote markers.
fn unquoted(line: &str) -> &str {
    let mut rest = line.trim();
    while let Some(inner) = rest.strip_prefix('>') {
        rest = inner.trim_start();
    }
    rest
}

fn fence_of(line: &str) -> Option<char> {
    ['`', '~'].into_iter().find(|&mark| line.chars().take_while(|&c| c == mark).count() >= 3)
}

/// Headings, table rows, HTML, link definitions and rules.
fn is_block(line: &str) -> bool {
    let rule = line.chars().all(|c| matches!(c, '-' | '*' | '_' | ' ' | '|' | ':' | '+' | '='));
    line.starts_with(['#', '|', '<'])
        || rule
        || line.matches('|').count() > 2
        || line.starts_with('[') && line.contains("]: ")
}

fn is_underline(line: &str) -> bool {
    line.len() >= 2 && (line.bytes().all(|b| b == b'=') || line.bytes().all(|b| b == b'-'))
}

/// Whether the line begins a list item, and what it says.
fn without_marker(line: &str) -> (bool, &str) {
    for marker in ["- [ ] ", "- [x] ", "- ", "* ", "+ ", "• "] {
        if let Some(rest) = line.strip_prefix(marker) {
            return (true, rest.trim_start());
        }
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let rest = line.get(digits..).unwrap_or_default();
    match rest.strip_prefix(". ").or_else(|| rest.strip_prefix(") ")) {
        Some(content) if (1..=3).contains(&digits) => (true, content.trim_start()),
        _ => (false, line),
    }
}

/// Links become their text; images, bare marks and emphasis go. Nothing is left of a line that is links only.
fn inline(line: &str) -> String {
    let (mut out, mut outside) = (String::with_capacity(line.len()), false);
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let image = rest.starts_with("![");
        let open = if image { rest.get(1..).unwrap_or_default() } else { rest };
        if let Some((label, target, after)) = bracketed(open) {
            let mark = !target && label.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b' ');
            if image || mark {
                out.truncate(out.trim_end().len());
                rest = after;
                continue;
            }
            if target {
                // A link's text may hold an image, as badges do.
                out.push_str(&if label.starts_with("![") { String::new() } else { label.replace("**", "") });
                rest = after;
                continue;
            }
        }
        if let Some(after) = rest.strip_prefix("**").or_else(|| rest.strip_prefix("__")) {
            rest = after;
            continue;
        }
        outside |= c.is_alphanumeric();
        out.push(c);
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    if outside { out } else { String::new() }
}

/// `[label]`, whether `(target)` or `[reference]` follows, and the rest. Labels and targets are short: that keeps the
/// search for their end linear.
fn bracketed(text: &str) -> Option<(&str, bool, &str)> {
    let (label, after) = enclosed(text, '[', ']')?;
    match enclosed(after, '(', ')').or_else(|| enclosed(after, '[', ']')) {
        Some((_, rest)) => Some((label, true, rest)),
        None => Some((label, false, after)),
    }
}

fn enclosed(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    let mut depth = 0_u32;
    for (index, c) in text.char_indices().take(MAX_LABEL) {
        if c == open {
            depth += 1;
        } else if c == close {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some((text.get(1..index)?, text.get(index + 1..)?));
            }
        }
        if depth == 0 {
            return None;
        }
    }
    None
}

/// In characters.
const MAX_LABEL: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_and_list_items_become_paragraphs() {
        let text = "One line\nand its end.\n\n- first item\n  goes on\n* second\n12. third\n\n> quoted\n> twice";
        let expected = ["One line and its end.", "first item goes on", "second", "third", "quoted twice"];
        assert_eq!(paragraphs(text), expected);
    }

    #[test]
    fn what_is_no_prose_is_left_out() {
        let text = "# Heading\n\nSetext\n======\n\n```rust\nlet code = 1;\n```\n\n    indented code\n\n    more of it\n\n| a | b |\n|---|---|\n\
                    <div>html</div>\n[ref]: https://example.org\n***\n\nProse.\n\n~~~\nunclosed\nProse in code.";
        assert_eq!(paragraphs(text), ["Prose."]);
    }

    #[test]
    fn badges_and_lines_of_links_are_left_out() {
        let text = "[![build](https://ci/badge.svg)](https://ci) [![docs](d.svg)](d)\n\n[Home](/) | [Docs](/docs)\n\n![](photo.png)";
        assert!(paragraphs(text).is_empty());
    }

    #[test]
    fn links_emphasis_and_marks_become_plain_text() {
        let text =
            "See the [**guide** (new)](https://example.org/a_(b)) or [this][ref], **now** [3] as array[0] says [1, 2].";
        assert_eq!(paragraphs(text), ["See the guide (new) or this, now as array says."]);
    }

    #[test]
    fn a_fence_is_closed_by_its_own_kind_only() {
        assert_eq!(paragraphs("```\ncode\n~~~\nstill code\n```\nText."), ["Text."]);
    }

    #[test]
    fn hostile_markup_stays_linear() {
        for unit in ["[", "![", "](", "[a](", "> ", "**", "`", "|", "[[", "é", "#", "- "] {
            let _ = paragraphs(&unit.repeat((1 << 20) / unit.len()));
        }
    }
}
