//! How often each piece occurs in a stream of documents.

use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use crate::spill::{SpillFile, SpilledCounts};
use crate::split::{Part, Splitter};
use crate::table::{BATCH, PACKED, Table, packed};

/// A thread costs more than this many bytes of text.
pub(crate) const LEAST_SHARE: usize = 1 << 14;
/// Longer texts are cut, so that no thread waits for another one's long document.
pub(crate) const LARGEST_PART: usize = 1 << 20;

/// Counts pieces on several threads; the outcome does not depend on how many.
pub struct Counter {
    splitter: Splitter,
    tables: Vec<Table>,
    documents: u64,
    bytes: u64,
}

/// Distinct pieces end to end, in no particular order.
#[derive(Debug, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    counts: Vec<i64>,
}

impl Pieces {
    /// Number of distinct pieces.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Bytes of all distinct pieces together.
    pub fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a piece that is not among them yet, if it occurs often enough.
    fn push_if(&mut self, piece: &[u8], count: i64, min_count: i64) {
        if count >= min_count {
            self.push(piece, count);
        }
    }

    /// Adds a piece that is not among them yet.
    pub fn push(&mut self, piece: &[u8], count: i64) {
        self.bytes.extend_from_slice(piece);
        self.ends.push(self.bytes.len());
        self.counts.push(count);
    }

    /// All of several sets that have no piece in common.
    fn joined(shares: Vec<Pieces>) -> Pieces {
        let mut shares = shares.into_iter();
        let mut all = shares.next().unwrap_or_default();
        let (bytes, pieces) =
            shares.as_slice().iter().fold((0, 0), |(b, p), share| (b + share.bytes.len(), p + share.len()));
        all.bytes.reserve_exact(bytes);
        all.ends.reserve_exact(pieces);
        all.counts.reserve_exact(pieces);
        for share in shares {
            let start = all.bytes.len();
            all.bytes.extend(share.bytes);
            all.ends.extend(share.ends.into_iter().map(|end| start + end));
            all.counts.extend(share.counts);
        }
        all
    }

    /// Writes all of them to a file, as [`Counter::spill`] does.
    pub fn spill(&self, path: &Path) -> io::Result<()> {
        let mut file = SpillFile::create(path)?;
        self.iter().for_each(|(piece, count)| file.add(piece, count));
        file.finish()
    }

    /// Adds a partition of the counts in files that [`Counter::spill`] wrote, so that no more than the result and a share
    /// of the files is ever in memory. Of the pieces that occur less than `min_count` times none is kept.
    ///
    /// An error comes with the file that it is about.
    pub fn gather<'a>(
        &mut self,
        spilled: &'a [PathBuf],
        partition: usize,
        min_count: i64,
    ) -> Result<(), (&'a Path, io::Error)> {
        let mut table = Table::new();
        for path in spilled {
            SpilledCounts::open(path)
                .and_then(|mut file| file.read(partition, |piece, count| table.add(piece, count)))
                .map_err(|problem| (path.as_path(), problem))?;
        }
        table.for_each(|piece, count| self.push_if(piece, count, min_count));
        Ok(())
    }

    /// Each piece with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).zip(&self.counts).map(|((start, &end), &count)| (&self.bytes[start..end], count))
    }
}

impl Counter {
    /// An empty counter that uses up to `threads` threads (at least one).
    pub fn new(splitter: Splitter, threads: usize) -> Counter {
        let tables = (0..threads.max(1)).map(|_| Table::new()).collect();
        Counter { splitter, tables, documents: 0, bytes: 0 }
    }

    /// Adds documents.
    pub fn feed(&mut self, texts: &[&str]) {
        let total: usize = texts.iter().map(|text| text.len()).sum();
        self.documents += texts.len() as u64;
        self.bytes += total as u64;
        let share = total.div_ceil(self.tables.len()).max(LEAST_SHARE);
        let splitter = self.splitter;
        let parts = splitter.parts(texts, share.min(LARGEST_PART));
        let mut rest = &parts[..];
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

    /// Adds pieces that were counted elsewhere.
    pub fn add(&mut self, pieces: &[(&str, i64)]) {
        for &(piece, count) in pieces {
            self.tables[0].add(piece.as_bytes(), count);
        }
    }

    /// Documents fed so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes of UTF-8 fed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pieces found so far, each as often as it occurred.
    pub fn pieces(&self) -> u64 {
        self.tables.iter().map(|table| table.seen).sum()
    }

    /// Pieces in memory, those that several threads found counted once for each.
    pub fn distinct(&self) -> usize {
        self.tables.iter().map(Table::len).sum()
    }

    /// Bytes of memory that the counts take.
    pub fn memory(&self) -> usize {
        self.tables.iter().map(Table::memory).sum()
    }

    /// Writes all counts to a file (see [`crate::spill`]) and forgets them.
    pub fn spill(&mut self, path: &Path) -> io::Result<()> {
        let mut file = SpillFile::create(path)?;
        for table in &self.tables {
            table.for_each(|piece, count| file.add(piece, count));
        }
        file.finish()?;
        self.tables.iter_mut().for_each(Table::clear);
        Ok(())
    }

    /// Every distinct piece that occurs `min_count` times or more, with its count.
    pub fn finish(self, min_count: i64) -> Pieces {
        let tables = &self.tables[..];
        let shares: Vec<Pieces> = std::thread::scope(|scope| {
            let work = |share| {
                let mut pieces = Pieces::default();
                Table::sums(tables, share, tables.len(), |piece, count| pieces.push_if(piece, count, min_count));
                pieces
            };
            let others: Vec<_> = (1..tables.len()).map(|share| scope.spawn(move || work(share))).collect();
            let own = work(0);
            let joined = others.into_iter().map(|thread| thread.join().unwrap_or_else(|fault| resume_unwind(fault)));
            std::iter::once(own).chain(joined).collect()
        });
        drop(self.tables);
        Pieces::joined(shares)
    }
}

/// How many leading parts make up `share` bytes; all of them if they are fewer.
pub(crate) fn leading(parts: &[Part<'_>], share: usize) -> usize {
    let mut bytes = 0;
    parts
        .iter()
        .position(|part| {
            bytes += part.text.len();
            bytes >= share
        })
        .map_or(parts.len(), |last| last + 1)
}

fn count(splitter: Splitter, parts: &[Part<'_>], table: &mut Table) {
    let mut keys = [0; BATCH];
    let mut waiting = 0;
    let mut seen = 0;
    for Part { text, .. } in parts {
        let bytes = text.as_bytes();
        splitter.for_each(text, |start, end| {
            seen += 1;
            if end - start > PACKED {
                table.add_long(&bytes[start..end], 1);
                return;
            }
            keys[waiting] = packed(bytes, start, end);
            waiting += 1;
            if waiting == BATCH {
                table.add_batch(&keys);
                waiting = 0;
            }
        });
    }
    table.add_batch(&keys[..waiting]);
    table.seen += seen;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spill::PARTITIONS;

    fn counted(texts: &[&str], threads: usize) -> Vec<(Vec<u8>, i64)> {
        let mut counter = Counter::new(Splitter::Gpt4 { max_digits: 2 }, threads);
        for part in texts.chunks(7) {
            counter.feed(part);
        }
        let pieces = counter.finish(1);
        assert_eq!(pieces.num_bytes(), pieces.iter().map(|(piece, _)| piece.len()).sum::<usize>());
        let mut found: Vec<_> = pieces.iter().map(|(piece, count)| (piece.to_vec(), count)).collect();
        assert_eq!(found.len(), pieces.len());
        found.sort_unstable();
        found
    }

    #[test]
    fn counts_pieces() {
        let want: [(&[u8], i64); 4] = [(b" a", 1), (b" b", 1), (b"a", 1), (b"b", 1)];
        assert_eq!(counted(&["a b a", "", "b"], 1), want.map(|(piece, count)| (piece.to_vec(), count)));
        assert!(counted(&[], 2).is_empty());
    }

    #[test]
    fn pieces_of_every_length_come_back_whole() {
        let words: Vec<String> = (1..70).flat_map(|n| ["x".repeat(n), "é".repeat(n)]).collect();
        let texts: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut want: Vec<_> = words.iter().map(|word| (word.clone().into_bytes(), 1)).collect();
        want.sort_unstable();
        assert_eq!(counted(&texts, 1), want);
    }

    #[test]
    fn many_distinct_pieces_and_threads_do_not_change_the_counts() {
        let texts: Vec<String> = (0..3000)
            .map(|i| format!("text{} and {} {}\n", i % 1700, "word ".repeat(i % 20), "long".repeat(i % 9)))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let one = counted(&texts, 1);
        assert_eq!(one, counted(&texts, 2));
        assert_eq!(one, counted(&texts, 5));
        let letters: usize = texts.iter().map(|text| text.len()).sum();
        assert_eq!(one.iter().map(|(piece, count)| piece.len() as i64 * count).sum::<i64>(), letters as i64);
    }

    #[test]
    fn shares_cover_every_text() {
        let parts = ["aa", "bb", "cc"].map(|text| Part { text, first: true });
        assert_eq!(leading(&parts, 3), 2);
        assert_eq!(leading(&parts, 100), 3);
        assert_eq!(leading(&[], 1), 0);
    }

    #[test]
    fn counts_that_went_through_files_are_the_same() {
        let folder = crate::spill::tests::Folder::new("count");
        let texts: Vec<String> =
            (0..2000).map(|i| format!("text{} {}é {}", i % 1300, "x".repeat(i % 40), i * i)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let want = counted(&texts, 1);
        let mut counter = Counter::new(Splitter::Gpt4 { max_digits: 2 }, 2);
        let mut files = Vec::new();
        for (number, part) in texts.chunks(700).enumerate() {
            counter.feed(part);
            let path = folder.0.join(number.to_string());
            counter.spill(&path).unwrap();
            assert_eq!(counter.distinct(), 0);
            assert!(counter.pieces() > 1000);
            files.push(path);
        }
        let sorted = |pieces: Pieces| {
            let mut found: Vec<_> = pieces.iter().map(|(piece, count)| (piece.to_vec(), count)).collect();
            found.sort_unstable();
            found
        };
        let gathered = |files: &[PathBuf], min_count: i64| {
            let mut pieces = Pieces::default();
            (0..PARTITIONS)
                .try_for_each(|partition| pieces.gather(files, partition, min_count).map_err(|(_, problem)| problem))
                .map(|()| sorted(pieces))
        };
        assert_eq!(gathered(&files, 1).unwrap(), want);
        let often: Vec<_> = want.into_iter().filter(|&(_, count)| count >= 3).collect();
        assert_eq!(gathered(&files, 3).unwrap(), often);
        assert!(gathered(&[folder.0.join("absent")], 1).is_err());
    }

    #[test]
    fn pieces_counted_elsewhere() {
        let mut counter = Counter::new(Splitter::Whole, 2);
        counter.add(&[("ab", 3_000_000_000), ("a piece of more than fifteen bytes", 2), ("ab", 1)]);
        let pieces = counter.finish(1);
        let mut found: Vec<_> = pieces.iter().collect();
        found.sort_unstable();
        let want: [(&[u8], i64); 2] = [(b"a piece of more than fifteen bytes", 2), (b"ab", 3_000_000_001)];
        assert_eq!(found, want);
    }
}
