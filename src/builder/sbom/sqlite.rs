//! As much of SQLite's file format as it takes to read one column of one table.
//!
//! A database of an image is not opened by SQLite itself: what is read here is a stranger's, and no more than this is needed. What a
//! journal beside the file would add is not seen. Source: sqlite.org, "Database File Format".

const MAGIC: &[u8] = b"SQLite format 3\0";
/// The first page begins with the header of the file.
const HEADER_BYTES: usize = 100;
const LEAF: u8 = 0x0d;
const INTERIOR: u8 = 0x05;
/// Columns of the table that lists all tables: type, name, name of its table, first page, statement.
const SCHEMA_COLUMNS: (usize, usize, usize) = (0, 1, 3);

/// The values of a column that are texts or blobs, row by row; `None` if this is no database with such a table. Damaged pages end
/// the list.
pub fn column(database: &[u8], table: &str, column: usize) -> Option<Vec<Vec<u8>>> {
    let database = Database::open(database)?;
    let (kind, name, root) = SCHEMA_COLUMNS;
    let is_wanted = |row: &[u8]| {
        let is = |column: usize, text: &str| value(row, column).is_some_and(|value| value.bytes() == Some(text.as_bytes()));
        is(kind, "table") && is(name, table)
    };
    let schema = database.rows(1);
    let row = schema.iter().find(|row| is_wanted(row))?;
    let root = usize::try_from(value(row, root)?.number()?).ok()?;
    let rows = database.rows(root);
    Some(rows.iter().filter_map(|row| Some(value(row, column)?.bytes()?.to_vec())).collect())
}

struct Database<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    /// Without what extensions keep at the end of each page.
    usable_bytes: usize,
}

impl<'a> Database<'a> {
    fn open(bytes: &'a [u8]) -> Option<Database<'a>> {
        if !bytes.starts_with(MAGIC) || bytes.len() < HEADER_BYTES {
            return None;
        }
        // 65,536 does not fit into two bytes
        let page_bytes = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65_536,
            size if size >= 512 && size.is_power_of_two() => usize::from(size),
            _ => return None,
        };
        let usable_bytes = page_bytes.checked_sub(usize::from(bytes[20])).filter(|usable| *usable >= 480)?;
        Some(Database { bytes, page_bytes, usable_bytes })
    }

    /// Pages are counted from 1.
    fn page(&self, number: usize) -> Option<&'a [u8]> {
        let start = number.checked_sub(1)?.checked_mul(self.page_bytes)?;
        self.bytes.get(start..start.checked_add(self.page_bytes)?)
    }

    /// The records of a table, in the order of their keys.
    fn rows(&self, root: usize) -> Vec<Vec<u8>> {
        let mut rows = Vec::new();
        let mut todo = vec![root];
        // in a sound tree no page is met twice, nor any byte
        let (mut left_pages, mut left_bytes) = (self.bytes.len() / self.page_bytes, self.bytes.len());
        while let Some(number) = todo.pop() {
            let (Some(page), Some(fewer)) = (self.page(number), left_pages.checked_sub(1)) else { break };
            left_pages = fewer;
            if self.read_page(number, page, &mut todo, &mut rows, &mut left_bytes).is_none() {
                break;
            }
        }
        rows
    }

    /// Adds the records of a leaf, or the children of another page, last one first.
    fn read_page(
        &self,
        number: usize,
        page: &[u8],
        todo: &mut Vec<usize>,
        rows: &mut Vec<Vec<u8>>,
        left_bytes: &mut usize,
    ) -> Option<()> {
        let head = page.get(if number == 1 { HEADER_BYTES } else { 0 }..)?;
        let cells = usize::from(two(head, 3)?);
        match *head.first()? {
            LEAF => {
                for cell in 0..cells {
                    let at = usize::from(two(head, 8 + 2 * cell)?);
                    let record = self.record(page.get(at..self.usable_bytes)?)?;
                    *left_bytes = left_bytes.checked_sub(record.len())?;
                    rows.push(record);
                }
            }
            INTERIOR => {
                todo.push(four(head, 8)? as usize);
                for cell in (0..cells).rev() {
                    let at = usize::from(two(head, 12 + 2 * cell)?);
                    todo.push(four(page, at)? as usize);
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The record of a leaf's cell, with what of it lies on pages of its own.
    fn record(&self, cell: &[u8]) -> Option<Vec<u8>> {
        let (length, rest) = varint(cell)?;
        let (_key, rest) = varint(rest)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= self.bytes.len())?;
        let most = self.usable_bytes - 35;
        let local = if length <= most {
            length
        } else {
            let least = (self.usable_bytes - 12) * 32 / 255 - 23;
            let fitting = least + (length - least) % (self.usable_bytes - 4);
            if fitting <= most { fitting } else { least }
        };
        let mut record = rest.get(..local)?.to_vec();
        let mut next = if length > local { four(rest, local)? as usize } else { 0 };
        while record.len() < length {
            let page = self.page(next)?;
            next = four(page, 0)? as usize;
            let part = page.get(4..self.usable_bytes)?;
            record.extend_from_slice(&part[..part.len().min(length - record.len())]);
        }
        Some(record)
    }
}

/// A column's value.
enum Value<'a> {
    Number(i64),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Value<'a> {
    fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn number(&self) -> Option<i64> {
        match self {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// A column of a record: types of all columns, then their values.
fn value(record: &[u8], column: usize) -> Option<Value<'_>> {
    let (head_bytes, types) = varint(record)?;
    let head_bytes = usize::try_from(head_bytes).ok()?;
    let mut types = types.get(..head_bytes.checked_sub(record.len() - types.len())?)?;
    let mut at = head_bytes;
    for number in 0.. {
        let (kind, rest) = varint(types)?;
        types = rest;
        let bytes = match kind {
            0 | 8..=11 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            kind => usize::try_from((kind - 12) / 2).ok()?,
        };
        let value = record.get(at..at.checked_add(bytes)?)?;
        at += bytes;
        if number == column {
            return Some(match kind {
                1..=6 => Value::Number(
                    value.iter().skip(1).fold(i64::from(value[0] as i8), |number, byte| (number << 8) | i64::from(*byte)),
                ),
                8 => Value::Number(0),
                9 => Value::Number(1),
                12.. => Value::Bytes(value),
                _ => Value::Other,
            });
        }
    }
    None
}

/// A number of one to nine bytes, most significant bits first, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (position, byte) in bytes.iter().enumerate().take(9) {
        if position == 8 {
            return Some(((number << 8) | u64::from(*byte), &bytes[9..]));
        }
        number = (number << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[position + 1..]));
        }
    }
    None
}

fn two(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn four(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of one table, made by SQLite itself: blobs of many lengths, so that the tree has several levels and some blobs lie on
    /// pages of their own.
    fn made(page_bytes: u32, blobs: &[Vec<u8>]) -> Vec<u8> {
        let space = tempfile::tempdir().expect("space");
        let path = space.path().join("made.sqlite");
        let rows: Vec<String> = blobs.iter().map(|blob| blob.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        let script = "import sqlite3, sys\n\
            base = sqlite3.connect(sys.argv[1])\n\
            base.execute('PRAGMA page_size=' + sys.argv[2])\n\
            base.execute('CREATE TABLE Other (x TEXT)')\n\
            base.execute('CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)')\n\
            for line in sys.stdin: base.execute('INSERT INTO Packages (blob) VALUES (?)', (bytes.fromhex(line.strip()),))\n\
            base.commit()\n";
        let mut command = std::process::Command::new("python3");
        command.arg("-c").arg(script).arg(&path).arg(page_bytes.to_string()).stdin(std::process::Stdio::piped());
        let mut child = command.spawn().expect("python3 starts");
        let mut input = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut input, rows.join("\n").as_bytes()).expect("it reads");
        drop(input);
        assert!(child.wait().expect("it ends").success());
        std::fs::read(path).expect("made")
    }

    #[test]
    fn a_table_that_sqlite_made_is_read() {
        let blobs: Vec<Vec<u8>> =
            (0..700_usize).map(|number| vec![number as u8; if number % 7 == 0 { number * 31 } else { number % 97 }]).collect();
        for page_bytes in [512, 4096, 65_536] {
            let database = made(page_bytes, &blobs);
            assert!(column(&database, "Packages", 1) == Some(blobs.clone()), "{page_bytes}");
            assert_eq!(column(&database, "Other", 0), Some(Vec::new()));
            assert_eq!(column(&database, "Nothing", 0), None);
        }
    }

    #[test]
    fn a_damaged_database_is_read_without_harm() {
        let whole = made(512, &(0..40).map(|number| vec![number; 300]).collect::<Vec<_>>());
        for length in (0..whole.len()).step_by(61) {
            let _something = column(&whole[..length], "Packages", 1);
        }
        for position in (0..whole.len()).step_by(7) {
            for byte in [0, 1, 0x05, 0x0d, 0xff] {
                let mut damaged = whole.clone();
                damaged[position] = byte;
                let _something = column(&damaged, "Packages", 1);
            }
        }
    }
}
