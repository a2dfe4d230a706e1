//! The Python module `nanochat_cli._bpe`: types in, types out, no logic.
//!
//! Long work runs without the interpreter lock and in short calls, so that Python can draw progress and see Ctrl-C
//! between them. Errors arrive as exceptions, never as a panic.

use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyCapsule, PyString, PyTuple};

use crate::spill::PARTITIONS;
use crate::split::Splitter;
use crate::{arrow, count, encode, train, unicode};

/// Shorter texts are encoded faster than the lock changes hands.
const DETACH_BYTES: usize = 4096;

/// Cuts text into pieces; see `_bpe.pyi`.
#[pyclass(frozen, name = "Splitter")]
struct PySplitter {
    inner: Splitter,
}

#[pymethods]
impl PySplitter {
    #[new]
    #[pyo3(signature = (style, max_digits=None))]
    fn new(style: &str, max_digits: Option<usize>) -> PyResult<PySplitter> {
        let inner = match (style, max_digits) {
            ("gpt4", Some(0) | None) => return Err(PyValueError::new_err("max_digits must be at least 1")),
            ("gpt4", Some(max_digits)) => Splitter::Gpt4 { max_digits },
            ("gpt2", None) => Splitter::Gpt2,
            ("whole", None) => Splitter::Whole,
            _ => return Err(PyValueError::new_err(format!("no such style: {style}"))),
        };
        Ok(PySplitter { inner })
    }

    fn split(&self, text: &Bound<'_, PyString>) -> PyResult<Vec<String>> {
        let text = utf8(text, None)?;
        let mut pieces = Vec::new();
        self.inner.for_each(text, |start, end| pieces.push(text[start..end].to_owned()));
        Ok(pieces)
    }
}

/// UTF-8 of a Python string; a ValueError for lone surrogates, which no UTF-8 can hold.
fn utf8<'a>(text: &'a Bound<'_, PyString>, index: Option<usize>) -> PyResult<&'a str> {
    text.to_str().map_err(|problem| {
        let position = problem.value(text.py()).getattr("start").and_then(|start| start.extract::<usize>());
        let place = position.map_or(String::new(), |start| format!(" at character {start}"));
        let owner = index.map_or(String::new(), |index| format!(" of text {index}"));
        PyValueError::new_err(format!("lone surrogate{place}{owner}"))
    })
}

fn all_utf8<'a>(texts: &'a [Bound<'_, PyString>]) -> PyResult<Vec<&'a str>> {
    texts.iter().enumerate().map(|(i, text)| utf8(text, Some(i))).collect()
}

/// What an array lends, on its way to where the interpreter lock is not held.
struct Lent {
    schema: NonNull<arrow::Schema>,
    array: NonNull<arrow::Array>,
}

// SAFETY: whoever lends the structs keeps them, unchanged, until the call that reads them returns.
#[allow(unsafe_code)]
unsafe impl Send for Lent {}

impl Lent {
    /// # Safety
    /// The structs are valid and stay so while the texts are used.
    #[allow(unsafe_code)]
    unsafe fn texts<'a>(self) -> Result<Vec<&'a str>, arrow::Fault> {
        // SAFETY: as promised by the caller.
        unsafe { arrow::texts(self.schema.as_ptr(), self.array.as_ptr()) }
    }
}

/// Does something with the texts of an Arrow array, which is lent for as long as that takes, without the interpreter lock.
///
/// A TypeError names an Arrow type that holds no text, a ValueError the row that is no UTF-8.
#[allow(unsafe_code)]
fn with_texts<R: Send>(array: &Bound<'_, PyAny>, work: impl FnOnce(&[&str]) -> R + Send) -> PyResult<R> {
    let lent = array.call_method0("__arrow_c_array__")?.cast_into::<PyTuple>()?;
    let (schema, array) = (lent.get_item(0)?.cast_into::<PyCapsule>()?, lent.get_item(1)?.cast_into::<PyCapsule>()?);
    let structs = Lent {
        schema: schema.pointer_checked(Some(c"arrow_schema"))?.cast(),
        array: array.pointer_checked(Some(c"arrow_array"))?.cast(),
    };
    // SAFETY: capsules of these names hold valid structs; `lent` keeps them until this function returns.
    match lent.py().detach(move || unsafe { structs.texts() }.map(|texts| work(&texts))) {
        Ok(result) => Ok(result),
        Err(arrow::Fault::Type(format)) => {
            Err(PyTypeError::new_err(format!("not an Arrow array of text: its format is {format}")))
        }
        Err(arrow::Fault::Utf8(row)) => Err(PyValueError::new_err(format!("invalid UTF-8 in row {row}"))),
        Err(arrow::Fault::Layout) => Err(PyValueError::new_err("an Arrow array whose buffers contradict each other")),
    }
}

/// Counts pieces; see `_bpe.pyi`.
#[pyclass]
struct Counter {
    inner: Option<count::Counter>,
}

/// An OSError with its number and file, as Python's own would have them.
fn os_error(problem: &io::Error, path: &Path) -> PyErr {
    match problem.raw_os_error() {
        Some(number) => PyOSError::new_err((number, problem.to_string(), path.to_path_buf())),
        None => PyValueError::new_err(format!("{problem}: {}", path.display())),
    }
}

fn used_up() -> PyErr {
    PyRuntimeError::new_err("the counts have been taken away already")
}

#[pymethods]
impl Counter {
    #[new]
    fn new(splitter: &PySplitter, threads: usize) -> Counter {
        Counter { inner: Some(count::Counter::new(splitter.inner, threads)) }
    }

    fn feed(&mut self, py: Python<'_>, texts: Vec<Bound<'_, PyString>>) -> PyResult<()> {
        let inner = self.inner.as_mut().ok_or_else(used_up)?;
        let texts = all_utf8(&texts)?;
        py.detach(|| inner.feed(&texts));
        Ok(())
    }

    /// Returns the characters that were counted, if there is a limit: all of the texts, cut to `doc_cap` each, up to and including the text
    /// that carries their sum beyond `max_chars`.
    #[pyo3(signature = (array, doc_cap=None, max_chars=None))]
    fn feed_arrow(
        &mut self,
        array: &Bound<'_, PyAny>,
        doc_cap: Option<usize>,
        max_chars: Option<usize>,
    ) -> PyResult<usize> {
        let inner = self.inner.as_mut().ok_or_else(used_up)?;
        with_texts(array, |texts| {
            if doc_cap.is_none() && max_chars.is_none() {
                inner.feed(texts);
                return 0;
            }
            let mut chars = 0;
            let mut fed = Vec::with_capacity(texts.len());
            for text in texts {
                let (text, length) = arrow::cropped(text, doc_cap.unwrap_or(usize::MAX));
                fed.push(text);
                chars += length;
                if max_chars.is_some_and(|limit| chars > limit) {
                    break;
                }
            }
            inner.feed(&fed);
            chars
        })
    }

    #[getter]
    fn documents(&self) -> PyResult<u64> {
        Ok(self.inner.as_ref().ok_or_else(used_up)?.documents())
    }

    #[getter]
    fn bytes(&self) -> PyResult<u64> {
        Ok(self.inner.as_ref().ok_or_else(used_up)?.bytes())
    }

    #[getter]
    fn pieces(&self) -> PyResult<u64> {
        Ok(self.inner.as_ref().ok_or_else(used_up)?.pieces())
    }

    #[getter]
    fn distinct(&self) -> PyResult<usize> {
        Ok(self.inner.as_ref().ok_or_else(used_up)?.distinct())
    }

    #[getter]
    fn memory(&self) -> PyResult<usize> {
        Ok(self.inner.as_ref().ok_or_else(used_up)?.memory())
    }

    fn add(&mut self, counts: Vec<(Bound<'_, PyString>, i64)>) -> PyResult<()> {
        let inner = self.inner.as_mut().ok_or_else(used_up)?;
        let counts: Vec<(&str, i64)> =
            counts.iter().map(|(piece, count)| Ok((utf8(piece, None)?, *count))).collect::<PyResult<_>>()?;
        if let Some((piece, count)) = counts.iter().find(|(_, count)| *count < 1) {
            return Err(PyValueError::new_err(format!("a count below one, of {piece:?}: {count}")));
        }
        inner.add(&counts);
        Ok(())
    }

    fn spill(&mut self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let inner = self.inner.as_mut().ok_or_else(used_up)?;
        py.detach(|| inner.spill(&path)).map_err(|problem| os_error(&problem, &path))
    }

    #[pyo3(signature = (min_count=1))]
    fn finish(&mut self, py: Python<'_>, min_count: i64) -> PyResult<Pieces> {
        let counter = self.inner.take().ok_or_else(used_up)?;
        Ok(Pieces { inner: py.detach(|| counter.finish(min_count)) })
    }
}

/// Distinct pieces and their counts; see `_bpe.pyi`.
#[pyclass]
struct Pieces {
    inner: count::Pieces,
}

#[pymethods]
impl Pieces {
    #[new]
    fn new() -> Pieces {
        Pieces { inner: count::Pieces::default() }
    }

    #[pyo3(signature = (spilled, partition, min_count=1))]
    fn gather(&mut self, py: Python<'_>, spilled: Vec<PathBuf>, partition: usize, min_count: i64) -> PyResult<()> {
        if partition >= PARTITIONS {
            return Err(PyValueError::new_err(format!("no such partition: {partition}")));
        }
        let inner = &mut self.inner;
        py.detach(|| inner.gather(&spilled, partition, min_count)).map_err(|(path, problem)| os_error(&problem, path))
    }

    fn spill(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.inner.spill(&path)).map_err(|problem| os_error(&problem, &path))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn merge_memory(&self, num_tokens: usize) -> usize {
        train::memory(&self.inner, num_tokens)
    }
}

/// Merges pairs; see `_bpe.pyi`.
#[pyclass]
struct Trainer {
    inner: train::Trainer,
}

#[pymethods]
impl Trainer {
    #[new]
    fn new(py: Python<'_>, pieces: &Pieces, num_tokens: usize) -> PyResult<Trainer> {
        let trainer = py.detach(|| train::Trainer::new(&pieces.inner, num_tokens));
        Ok(Trainer { inner: trainer.map_err(PyValueError::new_err)? })
    }

    fn follow(&mut self, merges: Vec<(u32, u32)>) {
        self.inner.follow(merges);
    }

    fn step(&mut self, py: Python<'_>, max_ms: u64) -> PyResult<bool> {
        let inner = &mut self.inner;
        py.detach(|| inner.step(Duration::from_millis(max_ms))).map_err(PyValueError::new_err)
    }

    fn merges(&self) -> Vec<(u32, u32)> {
        self.inner.merges().to_vec()
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        self.inner.tokens().len()
    }

    fn encoded_length(&self) -> i64 {
        self.inner.encoded_length()
    }

    fn tokens<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.inner.tokens().iter().map(|token| PyBytes::new(py, token)).collect()
    }
}

/// Encodes text; see `_bpe.pyi`.
#[pyclass(frozen)]
struct Encoder {
    inner: encode::Encoder,
}

#[pymethods]
impl Encoder {
    #[new]
    fn new(py: Python<'_>, tokens: Vec<Vec<u8>>, splitter: &PySplitter) -> PyResult<Encoder> {
        let splitter = splitter.inner;
        let inner = py.detach(|| encode::Encoder::new(&tokens, splitter)).map_err(PyValueError::new_err)?;
        Ok(Encoder { inner })
    }

    fn merges(&self) -> Vec<(u32, u32)> {
        self.inner.merges()
    }

    fn encode(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<Vec<u32>> {
        let text = utf8(text, None)?;
        if text.len() < DETACH_BYTES {
            return Ok(self.inner.encode(text));
        }
        Ok(py.detach(|| self.inner.encode(text)))
    }

    #[pyo3(signature = (texts, threads, first=None, narrow=false))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyString>>,
        threads: usize,
        first: Option<u32>,
        narrow: bool,
    ) -> PyResult<(Bound<'py, PyByteArray>, Bound<'py, PyByteArray>)> {
        let texts = all_utf8(&texts)?;
        let batch = py.detach(|| self.inner.encode_batch(&texts, threads, first));
        as_bytes(py, &batch, narrow)
    }

    #[pyo3(signature = (array, threads, first=None, narrow=false))]
    fn encode_arrow<'py>(
        &self,
        py: Python<'py>,
        array: &Bound<'py, PyAny>,
        threads: usize,
        first: Option<u32>,
        narrow: bool,
    ) -> PyResult<(Bound<'py, PyByteArray>, Bound<'py, PyByteArray>)> {
        let batch = with_texts(array, |texts| self.inner.encode_batch(texts, threads, first))?;
        as_bytes(py, &batch, narrow)
    }
}

/// Ids and lengths of a batch, as numpy reads them.
fn as_bytes<'py>(
    py: Python<'py>,
    batch: &encode::Batch,
    narrow: bool,
) -> PyResult<(Bound<'py, PyByteArray>, Bound<'py, PyByteArray>)> {
    let ids = if narrow {
        if batch.ids.iter().flatten().any(|&id| id > u32::from(u16::MAX)) {
            return Err(PyValueError::new_err("an id that two bytes cannot hold"));
        }
        flat(py, &batch.ids, |id| (id as u16).to_ne_bytes())
    } else {
        flat(py, &batch.ids, u32::to_ne_bytes)
    };
    Ok((ids?, flat(py, &[&batch.lengths], u64::to_ne_bytes)?))
}

/// Lists of numbers end to end, as the bytes that numpy reads them from; each list is written by a thread of its own.
fn flat<'py, T: Copy + Sync, const N: usize>(
    py: Python<'py>,
    lists: &[impl AsRef<[T]> + Sync],
    bytes_of: impl Fn(T) -> [u8; N] + Copy + Send,
) -> PyResult<Bound<'py, PyByteArray>> {
    let write = move |target: &mut [u8], numbers: &[T]| {
        for (slot, &number) in target.chunks_exact_mut(N).zip(numbers) {
            slot.copy_from_slice(&bytes_of(number));
        }
    };
    let length: usize = lists.iter().map(|list| list.as_ref().len()).sum();
    PyByteArray::new_with(py, length * N, |target| {
        std::thread::scope(|scope| {
            let mut rest = target;
            for list in lists {
                let numbers = list.as_ref();
                let (mine, others) = rest.split_at_mut(numbers.len() * N);
                rest = others;
                if rest.is_empty() {
                    write(mine, numbers); // the last one is the calling thread's own
                } else {
                    scope.spawn(move || write(mine, numbers));
                }
            }
        });
        Ok(())
    })
}

#[pymodule]
fn _bpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("UNICODE_VERSION", unicode::UNICODE_VERSION)?;
    module.add_class::<Counter>()?;
    module.add_class::<Pieces>()?;
    module.add_class::<Trainer>()?;
    module.add_class::<Encoder>()?;
    module.add_class::<PySplitter>()
}
