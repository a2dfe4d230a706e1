//! The class of every code point, as the split pattern sees it.

use std::sync::LazyLock;

pub use crate::unicode_ranges::UNICODE_VERSION;
use crate::unicode_ranges::{LETTERS, NUMBERS, SPACES};

/// What the split pattern distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Marks, punctuation, symbols, control characters, unassigned code points.
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// White space except CR and LF.
    Space,
    /// CR or LF.
    Newline,
}

impl Class {
    /// True for white space, line breaks included.
    pub fn is_space(self) -> bool {
        matches!(self, Class::Space | Class::Newline)
    }
}

const BLOCK: usize = 256;

/// Blocks of 256 code points; equal blocks are stored once, which leaves about 35 KB in use.
struct Table {
    block_of: Vec<u8>,
    blocks: Vec<[Class; BLOCK]>,
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::build);
const ASCII: [Class; 128] = ascii();

/// The classes of ASCII, known when this is compiled; a test compares them with the table.
const fn ascii() -> [Class; 128] {
    let mut classes = [Class::Other; 128];
    let mut code = 0;
    while code < 128 {
        classes[code] = match code as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\r' | b'\n' => Class::Newline,
            b' ' | 9..=13 => Class::Space,
            _ => Class::Other,
        };
        code += 1;
    }
    classes
}

impl Table {
    fn build() -> Table {
        let mut flat = vec![Class::Other; char::MAX as usize + 1];
        let sources: [(&[(u32, u32)], Class); 3] =
            [(&LETTERS, Class::Letter), (&NUMBERS, Class::Number), (&SPACES, Class::Space)];
        for (ranges, class) in sources {
            for &(low, high) in ranges {
                flat[low as usize..=high as usize].fill(class);
            }
        }
        flat['\r' as usize] = Class::Newline;
        flat['\n' as usize] = Class::Newline;

        let mut table = Table { block_of: Vec::new(), blocks: Vec::new() };
        for block in flat.chunks_exact(BLOCK) {
            let index = table.blocks.iter().position(|known| known[..] == *block).unwrap_or_else(|| {
                table.blocks.push(std::array::from_fn(|i| block[i]));
                table.blocks.len() - 1
            });
            table.block_of.push(u8::try_from(index).expect("fewer than 256 different blocks"));
        }
        table
    }

    fn get(&self, code: u32) -> Class {
        self.blocks[self.block_of[code as usize / BLOCK] as usize][code as usize % BLOCK]
    }
}

/// Class of a character.
pub fn class_of(c: char) -> Class {
    TABLE.get(c as u32)
}

/// Class of an ASCII byte; the fast half of [`class_of`].
pub(crate) fn ascii_class(byte: u8) -> Class {
    ASCII[byte as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_is_as_in_the_table() {
        for code in 0..128u8 {
            assert_eq!(ascii_class(code), TABLE.get(u32::from(code)), "{code}");
        }
    }

    #[test]
    fn classes_of_well_known_characters() {
        for (c, class) in [
            ('a', Class::Letter),
            ('é', Class::Letter),
            ('中', Class::Letter),
            ('ſ', Class::Letter),
            ('0', Class::Number),
            ('½', Class::Number),
            ('\u{661}', Class::Number),
            (' ', Class::Space),
            ('\t', Class::Space),
            ('\u{85}', Class::Space),
            ('\u{a0}', Class::Space),
            ('\u{3000}', Class::Space),
            ('\r', Class::Newline),
            ('\n', Class::Newline),
            ('\'', Class::Other),
            ('_', Class::Other),
            ('\u{200b}', Class::Other),
            ('\u{301}', Class::Other),
            ('😀', Class::Other),
            ('\0', Class::Other),
            (char::MAX, Class::Other),
        ] {
            assert_eq!(class_of(c), class, "{c:?}");
        }
    }

    #[test]
    fn the_ascii_half_agrees_with_the_table() {
        for byte in 0..128u8 {
            assert_eq!(ascii_class(byte), class_of(byte as char));
        }
    }
}
