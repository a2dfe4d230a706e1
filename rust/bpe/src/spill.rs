//! Counts on disk: what did not fit into memory, or what an interrupted training goes on from.
//!
//! A file holds records (length, bytes and count of a piece) in partitions by hash: the same piece is in the same
//! partition of every file, so that many files are put together one partition at a time. Numbers are in LEB128 form.
//!
//! ```text
//! "nanobpe1" · for each partition u64 bytes, u64 checksum · the partitions end to end        (little-endian)
//! ```

use std::fs::File;
use std::hash::Hasher;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::hash::FastHasher;

/// Into how many parts the pieces fall.
pub const PARTITIONS: usize = 64;
const MAGIC: &[u8; 8] = b"nanobpe1";
const HEADER: u64 = (MAGIC.len() + PARTITIONS * 16) as u64;

/// A file that is being written.
pub(crate) struct SpillFile {
    file: File,
    partitions: Vec<Vec<u8>>,
}

impl SpillFile {
    pub fn create(path: &Path) -> io::Result<SpillFile> {
        Ok(SpillFile { file: File::create(path)?, partitions: vec![Vec::new(); PARTITIONS] })
    }

    pub fn add(&mut self, piece: &[u8], count: i64) {
        let partition = &mut self.partitions[checksum(piece) as usize % PARTITIONS];
        write_number(partition, piece.len() as u64);
        partition.extend_from_slice(piece);
        write_number(partition, count as u64);
    }

    /// Writes everything and waits until the disk has it.
    pub fn finish(mut self) -> io::Result<()> {
        let mut header = MAGIC.to_vec();
        for partition in &self.partitions {
            header.extend_from_slice(&(partition.len() as u64).to_le_bytes());
            header.extend_from_slice(&checksum(partition).to_le_bytes());
        }
        self.file.write_all(&header)?;
        for partition in &self.partitions {
            self.file.write_all(partition)?;
        }
        self.file.sync_all()
    }
}

/// A file that was written.
pub(crate) struct SpilledCounts {
    file: BufReader<File>,
    partitions: Vec<(u64, u64, u64)>, // start, bytes, checksum
}

impl SpilledCounts {
    pub fn open(path: &Path) -> io::Result<SpilledCounts> {
        let mut file = BufReader::new(File::open(path)?);
        let mut header = [0; HEADER as usize];
        file.read_exact(&mut header).map_err(|_| damaged())?;
        let (magic, table) = header.split_at(MAGIC.len());
        let mut start = HEADER;
        let partitions = table
            .chunks_exact(16)
            .map(|entry| {
                let number = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("eight bytes"));
                let (bytes, sum) = (number(&entry[..8]), number(&entry[8..]));
                let begin = start;
                start = start.saturating_add(bytes);
                (begin, bytes, sum)
            })
            .collect();
        if magic != MAGIC || file.get_ref().metadata()?.len() != start {
            return Err(damaged());
        }
        Ok(SpilledCounts { file, partitions })
    }

    /// Hands over every piece of a partition with its count.
    pub fn read(&mut self, partition: usize, mut take: impl FnMut(&[u8], i64)) -> io::Result<()> {
        let (start, bytes, sum) = self.partitions[partition];
        let mut content = vec![0; bytes as usize]; // the file is as long as its partitions together
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_exact(&mut content)?;
        if checksum(&content) != sum {
            return Err(damaged());
        }
        let mut rest = &content[..];
        while !rest.is_empty() {
            let length = read_number(&mut rest).ok_or_else(damaged)?;
            let (piece, others) = rest.split_at_checked(length as usize).ok_or_else(damaged)?;
            rest = others;
            take(piece, read_number(&mut rest).ok_or_else(damaged)? as i64);
        }
        Ok(())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "damaged counts")
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = FastHasher::default();
    hasher.write(bytes);
    hasher.write_u64(bytes.len() as u64);
    hasher.finish()
}

fn write_number(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

fn read_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A folder that goes when the test ends.
    pub(crate) struct Folder(pub PathBuf);

    impl Folder {
        pub fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("nanochat-bpe-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn numbers_come_back() {
        let mut bytes = Vec::new();
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        numbers.iter().for_each(|&number| write_number(&mut bytes, number));
        let mut rest = &bytes[..];
        assert_eq!(numbers.map(|_| read_number(&mut rest).unwrap()), numbers);
        assert_eq!(read_number(&mut rest), None);
    }

    #[test]
    fn a_changed_or_cut_file_is_refused() {
        let folder = Folder::new("spill");
        let path = folder.0.join("counts");
        let mut file = SpillFile::create(&path).unwrap();
        (0..500).for_each(|i| file.add(format!("piece{i}").as_bytes(), i));
        file.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let read = || -> io::Result<i64> {
            let mut total = 0;
            let mut file = SpilledCounts::open(&path)?;
            (0..PARTITIONS).try_for_each(|partition| file.read(partition, |_, count| total += count))?;
            Ok(total)
        };
        assert_eq!(read().unwrap(), 500 * 499 / 2);
        for damage in [whole[..whole.len() - 1].to_vec(), whole[..20].to_vec(), [&whole[..], b"x"].concat()] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(read().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
