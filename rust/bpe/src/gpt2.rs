//! The split pattern of GPT-2, which has one rule for all white space and tells lower from upper case in contractions:
//!
//! ```text
//! '(?:[sdmt]|ll|ve|re) | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ | \s+(?!\S) | \s+
//! ```

use crate::split::{class_at, next_class, skip};

/// Where the piece that starts at byte `start` ends.
pub(crate) fn piece_end(text: &str, start: usize) -> usize {
    let (class, width) = class_at(text, start);
    let second = start + width;
    let bytes = text.as_bytes();
    if bytes[start] == b'\''
        && let Some(length) = contraction(&bytes[second..])
    {
        return second + length;
    }
    if !class.is_space() {
        return skip(text, second, class);
    }
    if bytes[start] == b' '
        && let Some((next, width)) = next_class(text, second)
        && !next.is_space()
    {
        return skip(text, second + width, next);
    }
    space_end(text, start)
}

/// Length of a contraction's letters at the start of `rest`, which follows an apostrophe.
fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [b's' | b'd' | b'm' | b't', ..] => Some(1),
        [b'l', b'l', ..] | [b'v' | b'r', b'e', ..] => Some(2),
        _ => None,
    }
}

/// End of a piece of white space that starts at `start`: all of it, but its last character is left to what follows.
fn space_end(text: &str, start: usize) -> usize {
    let (mut at, mut last) = (start, start);
    while let Some((class, width)) = next_class(text, at)
        && class.is_space()
    {
        (last, at) = (at, at + width);
    }
    if at < text.len() && last > start { last } else { at }
}

#[cfg(test)]
mod tests {
    use crate::split::Splitter;

    #[test]
    fn known_splits() {
        for row in [
            "I|'m",
            "I|'|M",
            "don|'t",
            "x|'s|x",
            "'ll|ama",
            "'|LL",
            " '|s",
            "foo| bar",
            "foo|  | bar",
            "foo|\n|bar",
            "foo| |\n|bar",
            "foo|\n| bar",
            " 12345",
            "a|123|b",
            "x|!!|\n\n",
            "!!|\n|x",
            " !!",
            "foo|  \n",
            "\t|\t|x",
            "e|\u{301}",
            " 中文",
            "\u{a0}|中",
            "12|中|½",
        ] {
            let want: Vec<&str> = row.split('|').collect();
            let text = want.concat();
            let mut pieces = Vec::new();
            Splitter::Gpt2.for_each(&text, |start, end| pieces.push(&text[start..end]));
            assert_eq!(pieces, want, "{row:?}");
        }
    }
}
