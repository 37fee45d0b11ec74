//! CSV and TSV.

use std::borrow::Cow;

use super::columns::{Columns, Track};
use super::lines::Lines;
use super::{Packing, Row, Source, number, seconds, track_name};
use crate::error::{Error, Result};

pub fn read(source: &mut Source, delimiter: u8, packing: Packing) -> Result<()> {
    let mut lines = Lines::open(source.path, packing)?;
    let mut fields = Fields::default();
    let file_user = source.file_user.take();
    let expected = "a header line with the columns time, user and track, each once";
    let wrong = |found: String| Error::format(source.path, expected, found);
    match lines.next()? {
        Some(Ok(())) => {}
        Some(Err(reason)) => return Err(wrong(reason.into())),
        None => return Err(wrong("an empty file".into())),
    }
    // Quotes are letters in a file that has no header, as in `"Heroes"`.
    fields.split_plainly(lines.line(), b'\t');
    let is_1k =
        delimiter == b'\t' && fields.len() == 6 && fields.text(1).is_ok_and(|t| super::iso_seconds(t).is_some());
    let columns = if is_1k {
        Columns::of_lastfm_1k()
    } else {
        fields.split(lines.line(), delimiter).map_err(|reason| wrong(reason.into()))?;
        let names: Vec<String> =
            (0..fields.len()).map(|i| String::from_utf8_lossy(fields.get(i)).trim().to_ascii_lowercase()).collect();
        Columns::of(&names).map_err(wrong)?
    };
    let count = fields.len();
    if is_1k {
        source.give_line(row(&fields, &columns, None), &lines)?;
    }
    while let Some(found) = lines.next()? {
        let split = match found {
            Ok(()) if lines.line().is_empty() => continue,
            Ok(()) if is_1k => {
                fields.split_plainly(lines.line(), delimiter);
                Ok(())
            }
            Ok(()) => fields.split(lines.line(), delimiter),
            Err(reason) => Err(reason),
        };
        match split {
            Err(reason) => source.give_line(Err(reason), &lines)?,
            Ok(()) if fields.len() < count => source.give_line(Err("too few fields"), &lines)?,
            Ok(()) if fields.len() > count => source.give_line(Err("too many fields"), &lines)?,
            Ok(()) => source.give_line(row(&fields, &columns, file_user.as_deref()), &lines)?,
        }
    }
    Ok(())
}

fn row<'a>(fields: &'a Fields, columns: &Columns, file_user: Option<&'a str>) -> Result<Row<'a>, &'static str> {
    let text = |column: Option<usize>| column.map(|i| fields.text(i)).transpose();
    let filled = |column| Ok::<_, &'static str>(text(column)?.filter(|t| !t.trim().is_empty()));
    let number = |column| filled(column)?.map(number).transpose();
    Ok(Row {
        time: text(columns.time)?.map(seconds).transpose()?,
        user: if columns.file_is_user { file_user } else { text(columns.user)? }.map(Cow::from),
        track: match columns.track {
            Track::Id(id) => Some(fields.text(id)?.into()),
            Track::Names { mbid, artist, title } => {
                track_name(filled(mbid)?, filled(Some(artist))?, filled(Some(title))?)
            }
        },
        action: filled(columns.action)?.map(Cow::from),
        value: number(columns.value)?,
        seconds: number(columns.seconds)?,
        duration: number(columns.duration)?,
        playlist: filled(columns.playlist)?.map(Cow::from),
    })
}

/// The fields of one line of separated text, quoted as in RFC 4180. A line break ends a row even within quotes: no id
/// holds one, and an unclosed quote then costs one row and not the rest of the file.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    fn split(&mut self, line: &[u8], delimiter: u8) -> Result<(), &'static str> {
        self.bytes.clear();
        self.ends.clear();
        let mut at = 0;
        loop {
            if line.get(at) == Some(&b'"') {
                at += 1;
                loop {
                    match (line.get(at), line.get(at + 1)) {
                        (Some(b'"'), Some(b'"')) => {
                            self.bytes.push(b'"');
                            at += 2;
                        }
                        (Some(b'"'), next) if next.is_none_or(|&n| n == delimiter) => {
                            at += 1;
                            break;
                        }
                        (Some(b'"') | None, _) => return Err("an unclosed quote"),
                        (Some(&byte), _) => {
                            self.bytes.push(byte);
                            at += 1;
                        }
                    }
                }
            } else {
                let rest = &line[at..];
                let length = rest.iter().position(|&b| b == delimiter).unwrap_or(rest.len());
                self.bytes.extend_from_slice(&rest[..length]);
                at += length;
            }
            self.ends.push(self.bytes.len());
            if at >= line.len() {
                return Ok(());
            }
            at += 1; // the delimiter
        }
    }

    /// Where quotes are letters like any other.
    fn split_plainly(&mut self, line: &[u8], delimiter: u8) {
        self.bytes.clear();
        self.ends.clear();
        for field in line.split(|&b| b == delimiter) {
            self.bytes.extend_from_slice(field);
            self.ends.push(self.bytes.len());
        }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }

    fn text(&self, i: usize) -> Result<&str, &'static str> {
        std::str::from_utf8(self.get(i)).map_err(|_| "not UTF-8")
    }
}

#[test]
fn fields_are_split_as_rfc_4180_says() {
    let split = |line: &str| {
        let mut fields = Fields::default();
        let read = fields.split(line.as_bytes(), b',');
        read.map(|()| (0..fields.len()).map(|i| String::from_utf8(fields.get(i).to_vec()).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(split("a,b").unwrap(), ["a", "b"]);
    assert_eq!(split(",a,,").unwrap(), ["", "a", "", ""]);
    assert_eq!(split("\"a, b\",\"say \"\"hi\"\"\",\"\"").unwrap(), ["a, b", "say \"hi\"", ""]);
    assert_eq!(split("a \"quoted\" b").unwrap(), ["a \"quoted\" b"]);
    assert_eq!(split("a,\"b"), Err("an unclosed quote"));
    assert_eq!(split("\"a\"b,c"), Err("an unclosed quote"));
}
