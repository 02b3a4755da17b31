//! Sparse files in archives: where the stored bytes belong, and what is read with the holes between them.
//!
//! Spec: GNU tar manual, "Storing Sparse Files" (the old form, and PAX 0.0, 0.1, 1.0).

use std::io::{self, Read};

use super::archive::{bad, number};
use super::header::BLOCK;

/// One run of stored bytes of a sparse file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    offset: u64,
    length: u64,
}

/// The runs of a file in order, and how far it was read.
#[derive(Debug)]
pub(super) struct Map {
    runs: std::vec::IntoIter<Run>,
    current: Option<Run>,
    at: u64,
    size_bytes: u64,
}

/// At most this many runs: a map is held in memory.
const MAX_RUNS: usize = 1 << 20;

/// The PAX records that speak of a sparse file.
pub(super) struct Records<'a> {
    /// All records, in order.
    pub pax: &'a [(Vec<u8>, Vec<u8>)],
}

impl Records<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        let (_, value) = self.pax.iter().rev().find(|(found, _)| found == key.as_bytes())?;
        std::str::from_utf8(value).ok()
    }

    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.pax.iter().any(|(key, _)| key.starts_with(b"GNU.sparse."))
    }

    /// The name of the file; the header's own one is made up.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.text("GNU.sparse.name").map(str::as_bytes)
    }

    /// The map; `data` stands at the entry's data, in front of which version 1.0 keeps it.
    pub(super) fn map(&self, data: &mut dyn Read) -> io::Result<Map> {
        let size = self.text("GNU.sparse.realsize").or(self.text("GNU.sparse.size"));
        let size_bytes = size.and_then(|text| text.parse().ok()).ok_or_else(malformed)?;
        let numbers = match (self.text("GNU.sparse.major"), self.text("GNU.sparse.minor")) {
            (Some("1"), Some("0")) => leading_numbers(data)?,
            (None | Some("0"), _) => match self.text("GNU.sparse.map") {
                Some("") => Vec::new(),
                Some(map) => map.split(',').map(parse).collect::<io::Result<_>>()?,
                None => self.pairs()?,
            },
            _ => return Err(bad("a sparse entry has an unknown version")),
        };
        Map::new(&numbers, size_bytes)
    }

    /// Version 0.0: a record for each number.
    fn pairs(&self) -> io::Result<Vec<u64>> {
        let numbers = self.pax.iter().filter(|(key, _)| key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes");
        numbers.map(|(_, value)| parse(std::str::from_utf8(value).map_err(|_| malformed())?)).collect()
    }
}

/// The map of an old GNU header and the blocks that may follow it.
pub(super) fn old_map(header: &[u8; BLOCK], input: &mut dyn Read) -> io::Result<Map> {
    const RUN_BYTES: usize = 24;
    let mut numbers = Vec::new();
    let mut add = |runs: &[u8]| -> io::Result<()> {
        for run in runs.chunks_exact(RUN_BYTES) {
            // a run without digits ends the list
            if run[0] == 0 {
                break;
            }
            numbers.push(unsigned(&run[..12])?);
            numbers.push(unsigned(&run[12..])?);
        }
        if numbers.len() / 2 > MAX_RUNS { Err(malformed()) } else { Ok(()) }
    };
    add(&header[386..386 + 4 * RUN_BYTES])?;
    let mut more = header[482] != 0;
    while more {
        let mut block = [0; BLOCK];
        input.read_exact(&mut block)?;
        add(&block[..21 * RUN_BYTES])?;
        more = block[504] != 0;
    }
    Map::new(&numbers, unsigned(&header[483..495])?)
}

/// Version 1.0: decimal lines in front of the data, the first one counts the runs; zeros fill the last block.
fn leading_numbers(data: &mut dyn Read) -> io::Result<Vec<u64>> {
    let mut text = Vec::new();
    let mut lines = 0;
    let mut wanted = 1;
    while lines < wanted {
        let mut block = [0; BLOCK];
        data.read_exact(&mut block)?;
        for byte in block {
            if lines == wanted {
                break;
            }
            text.push(byte);
            if byte != b'\n' {
                continue;
            }
            lines += 1;
            if lines == 1 {
                let runs = std::str::from_utf8(&text[..text.len() - 1]).ok().and_then(|text| text.parse::<usize>().ok());
                wanted += 2 * runs.filter(|runs| *runs <= MAX_RUNS).ok_or_else(malformed)?;
            }
        }
        if lines == 0 {
            return Err(malformed());
        }
    }
    let text = String::from_utf8(text).map_err(|_| malformed())?;
    text.lines().skip(1).map(parse).collect()
}

impl Map {
    /// Offsets and lengths by turns.
    fn new(numbers: &[u64], size_bytes: u64) -> io::Result<Map> {
        if !numbers.len().is_multiple_of(2) {
            return Err(malformed());
        }
        let mut end = 0;
        let mut runs = Vec::with_capacity(numbers.len() / 2);
        for pair in numbers.chunks_exact(2) {
            let run = Run { offset: pair[0], length: pair[1] };
            let run_end = run.offset.checked_add(run.length).filter(|run_end| *run_end <= size_bytes).ok_or_else(malformed)?;
            if run.offset < end {
                return Err(malformed());
            }
            end = run_end;
            runs.push(run);
        }
        Ok(Map { runs: runs.into_iter(), current: None, at: 0, size_bytes })
    }

    /// Bytes of the file, holes included.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What comes next in the file, at most `wanted` bytes of it; nothing at its end.
    pub(super) fn next(&mut self, wanted: u64) -> Piece {
        if self.current.is_none_or(|run| run.offset + run.length <= self.at) {
            let at = self.at;
            self.current = self.runs.find(|run| run.offset + run.length > at);
        }
        let (is_hole, end) = match self.current {
            Some(run) if run.offset <= self.at => (false, run.offset + run.length),
            Some(run) => (true, run.offset),
            None => (true, self.size_bytes),
        };
        let length = wanted.min(end - self.at);
        if is_hole { Piece::Hole(length) } else { Piece::Data(length) }
    }

    /// So many bytes were read.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.at += bytes;
    }
}

/// A part of a sparse file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    Data(u64),
    Hole(u64),
}

fn parse(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| malformed())
}

fn unsigned(field: &[u8]) -> io::Result<u64> {
    u64::try_from(number(field)?).map_err(|_| malformed())
}

fn malformed() -> io::Error {
    bad("the map of a sparse entry is malformed")
}
