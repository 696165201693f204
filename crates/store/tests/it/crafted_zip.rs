//! A zip writer that can lie: every field may differ from the truth.

use std::io::{Cursor, Read, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

pub const UNIX: u8 = 3;
pub const DOS: u8 = 0;
pub const STORED: u16 = 0;
pub const DEFLATED: u16 = 8;

/// One entry. The fields are what the headers say; `packed` is what lies behind the local header.
#[derive(Debug, Clone)]
pub struct Crafted {
    pub name: Vec<u8>,
    pub packed: Vec<u8>,
    pub packed_bytes: u32,
    pub size_bytes: u32,
    pub crc: u32,
    pub method: u16,
    pub flags: u16,
    pub system: u8,
    pub mode: u32,
    /// Takes the bytes of the entry with this number instead of its own.
    pub shares: Option<usize>,
}

pub fn file(name: impl AsRef<[u8]>, content: &[u8]) -> Crafted {
    Crafted {
        name: name.as_ref().to_vec(),
        packed: content.to_vec(),
        packed_bytes: content.len() as u32,
        size_bytes: content.len() as u32,
        crc: crc32(content),
        method: STORED,
        flags: 1 << 11,
        system: UNIX,
        mode: 0o100_644,
        shares: None,
    }
}

pub fn deflated(name: impl AsRef<[u8]>, content: &[u8]) -> Crafted {
    let packed = deflate(content);
    Crafted { packed_bytes: packed.len() as u32, packed, method: DEFLATED, ..file(name, content) }
}

pub fn folder(name: impl AsRef<[u8]>) -> Crafted {
    Crafted { mode: 0o040_755, ..file(name, b"") }
}

pub fn link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Crafted {
    Crafted { mode: 0o120_777, ..file(name, target.as_ref()) }
}

/// The bytes of a zip with these entries.
pub fn zip(entries: &[Crafted]) -> Vec<u8> {
    let (mut out, mut directory, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let offset = entry.shares.map_or(out.len() as u32, |number| offsets[number]);
        offsets.push(offset);
        if entry.shares.is_none() {
            out.extend_from_slice(b"PK\x03\x04");
            put16(&mut out, &[20]);
            put_middle(&mut out, entry);
            put16(&mut out, &[0]);
            out.extend_from_slice(&entry.name);
            out.extend_from_slice(&entry.packed);
        }
        directory.extend_from_slice(b"PK\x01\x02");
        directory.extend_from_slice(&[20, entry.system]);
        put16(&mut directory, &[20]);
        put_middle(&mut directory, entry);
        put16(&mut directory, &[0, 0, 0, 0]);
        put32(&mut directory, &[entry.mode << 16, offset]);
        directory.extend_from_slice(&entry.name);
    }
    let start = out.len() as u32;
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06");
    put16(&mut out, &[0, 0, entries.len() as u16, entries.len() as u16]);
    put32(&mut out, &[directory.len() as u32, start]);
    put16(&mut out, &[0]);
    out
}

/// The fields that both headers share.
fn put_middle(out: &mut Vec<u8>, entry: &Crafted) {
    put16(out, &[entry.flags, entry.method, 0, 0x21]);
    put32(out, &[entry.crc, entry.packed_bytes, entry.size_bytes]);
    put16(out, &[entry.name.len() as u16]);
}

fn put16(out: &mut Vec<u8>, numbers: &[u16]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn put32(out: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    writer.start_file("f", options).unwrap();
    writer.write_all(content).unwrap();
    let mut archive = ZipArchive::new(writer.finish().unwrap()).unwrap();
    let mut packed = Vec::new();
    archive.by_index_raw(0).unwrap().read_to_end(&mut packed).unwrap();
    packed
}
