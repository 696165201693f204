//! Files in memory that hold the images of initialised guests. Bytes of guests: nothing here looks into them.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// An image that grows.
#[derive(Debug)]
pub struct Growing {
    file: File,
    bytes: u64,
    bytes_max: u64,
}

/// An image that nobody changes any more, whoever has it open: many guests map it.
#[derive(Debug)]
pub struct Image {
    file: File,
    bytes: u64,
}

impl Growing {
    /// An empty one that may have so many bytes.
    pub fn new(bytes_max: u64) -> io::Result<Growing> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        Ok(Growing { file: memfd_create(c"image", flags)?.into(), bytes: 0, bytes_max })
    }

    /// Adds bytes at the end.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write_all(bytes)
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forbids every change, for ever.
    pub fn seal(self) -> io::Result<Image> {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&self.file, seals)?;
        Ok(Image { file: self.file, bytes: self.bytes })
    }
}

impl Image {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sealed_image_stays_as_it_is() {
        let mut growing = Growing::new(8).unwrap();
        growing.append(b"image").unwrap();
        assert_eq!(growing.append(b"more").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let mut growing = Growing::new(8).unwrap();
        growing.append(b"image").unwrap();
        let image = growing.seal().unwrap();
        assert!(image.file.write_at(b"x", 0).is_err());
        assert!(image.file.set_len(1).is_err() && image.file.set_len(100).is_err());
        assert_eq!(image.bytes(), 5);
    }
}
