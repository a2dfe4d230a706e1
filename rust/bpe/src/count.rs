//! How often each piece occurs in a stream of documents.

use crate::hash::FastMap;
use crate::split::Splitter;

type Table = FastMap<Box<[u8]>, i64>;

/// Counts pieces on several threads; the outcome does not depend on how many.
pub struct Counter {
    splitter: Splitter,
    tables: Vec<Table>,
    documents: u64,
    bytes: u64,
}

impl Counter {
    /// An empty counter that uses up to `threads` threads (at least one).
    pub fn new(splitter: Splitter, threads: usize) -> Counter {
        let tables = (0..threads.max(1)).map(|_| Table::default()).collect();
        Counter { splitter, tables, documents: 0, bytes: 0 }
    }

    /// Adds documents.
    pub fn feed(&mut self, texts: &[&str]) {
        let total: usize = texts.iter().map(|text| text.len()).sum();
        self.documents += texts.len() as u64;
        self.bytes += total as u64;
        let share = total.div_ceil(self.tables.len()).max(1 << 14); // a thread costs more than 16 KB of text
        let splitter = self.splitter;
        let mut rest = texts;
        std::thread::scope(|scope| {
            for table in &mut self.tables {
                let (mine, others) = rest.split_at(leading(rest, share));
                rest = others;
                if others.is_empty() {
                    count(splitter, mine, table); // the last share is the calling thread's own
                    break;
                }
                scope.spawn(move || count(splitter, mine, table));
            }
        });
    }

    /// Documents fed so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes of UTF-8 fed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every distinct piece with its count, sorted by bytes.
    pub fn finish(self) -> Vec<(Box<[u8]>, i64)> {
        let mut tables = self.tables.into_iter();
        let mut all = tables.next().unwrap_or_default();
        for (piece, count) in tables.flatten() {
            *all.entry(piece).or_insert(0) += count;
        }
        let mut pieces: Vec<_> = all.into_iter().collect();
        pieces.sort_unstable();
        pieces
    }
}

/// How many leading texts make up `share` bytes; all of them if they are fewer.
pub(crate) fn leading(texts: &[&str], share: usize) -> usize {
    let mut bytes = 0;
    texts
        .iter()
        .position(|text| {
            bytes += text.len();
            bytes >= share
        })
        .map_or(texts.len(), |last| last + 1)
}

fn count(splitter: Splitter, texts: &[&str], table: &mut Table) {
    for piece in texts.iter().flat_map(|text| splitter.pieces(text)) {
        match table.get_mut(piece.as_bytes()) {
            Some(count) => *count += 1,
            None => {
                table.insert(piece.as_bytes().into(), 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(texts: &[&str], threads: usize) -> Vec<(Box<[u8]>, i64)> {
        let mut counter = Counter::new(Splitter { max_digits: 2 }, threads);
        for part in texts.chunks(7) {
            counter.feed(part);
        }
        counter.finish()
    }

    #[test]
    fn counts_pieces() {
        let pieces = counted(&["a b a", "", "b"], 1);
        let want: [(&[u8], i64); 4] = [(b" a", 1), (b" b", 1), (b"a", 1), (b"b", 1)];
        assert_eq!(pieces.len(), want.len());
        for ((piece, count), (want_piece, want_count)) in pieces.iter().zip(want) {
            assert_eq!((&piece[..], *count), (want_piece, want_count));
        }
    }

    #[test]
    fn threads_do_not_change_the_counts() {
        let texts: Vec<String> =
            (0..200).map(|i| format!("text {} and {}\n", i % 17, "word ".repeat(i * 20))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let one = counted(&texts, 1);
        assert_eq!(one, counted(&texts, 2));
        assert_eq!(one, counted(&texts, 5));
    }

    #[test]
    fn shares_cover_every_text() {
        assert_eq!(leading(&["aa", "bb", "cc"], 3), 2);
        assert_eq!(leading(&["aa", "bb", "cc"], 100), 3);
        assert_eq!(leading(&[], 1), 0);
    }
}
