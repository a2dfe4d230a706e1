//! The Python module `nanochat_cli._bpe`: types in, types out, no logic.
//!
//! Long work runs without the interpreter lock and in short calls, so that Python can draw progress and see Ctrl-C
//! between them. Errors arrive as exceptions, never as a panic.

use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyString};

use crate::split::Splitter;
use crate::{count, encode, train, unicode};

/// Shorter texts are encoded faster than the lock changes hands.
const DETACH_BYTES: usize = 4096;

fn splitter(max_digits: usize) -> PyResult<Splitter> {
    if max_digits == 0 {
        return Err(PyValueError::new_err("max_digits must be at least 1: 0"));
    }
    Ok(Splitter { max_digits })
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

/// Counts pieces; see `_bpe.pyi`.
#[pyclass]
struct Counter {
    inner: Option<count::Counter>,
}

fn used_up() -> PyErr {
    PyRuntimeError::new_err("the counts have gone into a trainer already")
}

#[pymethods]
impl Counter {
    #[new]
    fn new(max_digits: usize, threads: usize) -> PyResult<Counter> {
        Ok(Counter { inner: Some(count::Counter::new(splitter(max_digits)?, threads)) })
    }

    fn feed(&mut self, py: Python<'_>, texts: Vec<Bound<'_, PyString>>) -> PyResult<()> {
        let inner = self.inner.as_mut().ok_or_else(used_up)?;
        let texts = all_utf8(&texts)?;
        py.detach(|| inner.feed(&texts));
        Ok(())
    }

    #[getter]
    fn documents(&self) -> PyResult<u64> {
        Ok(self.inner.as_ref().ok_or_else(used_up)?.documents())
    }

    #[getter]
    fn bytes(&self) -> PyResult<u64> {
        Ok(self.inner.as_ref().ok_or_else(used_up)?.bytes())
    }

    fn trainer(&mut self, py: Python<'_>, num_tokens: usize) -> PyResult<Trainer> {
        let counter = self.inner.take().ok_or_else(used_up)?;
        let (trainer, pieces) = py.detach(|| {
            let pieces = counter.finish();
            (train::Trainer::new(&pieces, num_tokens), pieces.len())
        });
        Ok(Trainer { inner: trainer.map_err(PyValueError::new_err)?, pieces })
    }
}

/// Merges pairs; see `_bpe.pyi`.
#[pyclass]
struct Trainer {
    inner: train::Trainer,
    #[pyo3(get)]
    pieces: usize,
}

#[pymethods]
impl Trainer {
    fn step(&mut self, py: Python<'_>, max_ms: u64) -> bool {
        let inner = &mut self.inner;
        py.detach(|| inner.step(Duration::from_millis(max_ms)))
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
    fn new(py: Python<'_>, tokens: Vec<Vec<u8>>, max_digits: usize) -> PyResult<Encoder> {
        let splitter = splitter(max_digits)?;
        let inner = py.detach(|| encode::Encoder::new(&tokens, splitter)).map_err(PyValueError::new_err)?;
        Ok(Encoder { inner })
    }

    fn encode(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<Vec<u32>> {
        let text = utf8(text, None)?;
        if text.len() < DETACH_BYTES {
            return Ok(self.inner.encode(text));
        }
        Ok(py.detach(|| self.inner.encode(text)))
    }

    #[pyo3(signature = (texts, threads, first=None))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyString>>,
        threads: usize,
        first: Option<u32>,
    ) -> PyResult<(Bound<'py, PyByteArray>, Bound<'py, PyByteArray>)> {
        let texts = all_utf8(&texts)?;
        let batch = py.detach(|| self.inner.encode_batch(&texts, threads, first));
        Ok((flat(py, &batch.ids, |id| id.to_ne_bytes())?, flat(py, &batch.lengths, |length| length.to_ne_bytes())?))
    }
}

/// Numbers as the bytes that numpy reads them from.
fn flat<'py, T: Copy, const N: usize>(
    py: Python<'py>,
    numbers: &[T],
    bytes_of: impl Fn(T) -> [u8; N],
) -> PyResult<Bound<'py, PyByteArray>> {
    PyByteArray::new_with(py, numbers.len() * N, |target| {
        for (slot, &number) in target.chunks_exact_mut(N).zip(numbers) {
            slot.copy_from_slice(&bytes_of(number));
        }
        Ok(())
    })
}

/// Pieces of a text; see `_bpe.pyi`.
#[pyfunction]
fn split(text: &Bound<'_, PyString>, max_digits: usize) -> PyResult<Vec<String>> {
    let splitter = splitter(max_digits)?;
    Ok(splitter.pieces(utf8(text, None)?).map(String::from).collect())
}

#[pymodule]
fn _bpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("UNICODE_VERSION", unicode::UNICODE_VERSION)?;
    module.add_class::<Counter>()?;
    module.add_class::<Trainer>()?;
    module.add_class::<Encoder>()?;
    module.add_function(wrap_pyfunction!(split, module)?)
}
