//! Request and trace ids: unguessable, and made without asking the kernel each time.

use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::fmt::Write;
use std::sync::Arc;
use uuid::{Builder, Uuid};

/// A stream of random bytes: the hash of a random key and a counter. One per thread; the daemon never forks.
struct Stream {
    key: [u8; 32],
    count: u64,
}

impl Stream {
    /// Asks the kernel for the key.
    fn new() -> Stream {
        let mut key = [0; 32];
        key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        Stream { key, count: 0 }
    }

    fn next(&mut self) -> [u8; 32] {
        self.count += 1;
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update(self.count.to_le_bytes());
        hash.finalize().into()
    }
}

fn random() -> [u8; 32] {
    thread_local! {
        static STREAM: RefCell<Stream> = RefCell::new(Stream::new());
    }
    STREAM.with_borrow_mut(Stream::next)
}

/// A request id: a UUID of version 4, in lower case.
pub fn request() -> Arc<str> {
    let [bytes, _] = halves(random());
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    Arc::from(&*Builder::from_random_bytes(bytes).into_uuid().hyphenated().encode_lower(&mut text))
}

/// A trace header of AWS's form that asks for no sampling; `now_s` is seconds since the Unix epoch.
pub fn trace(now_s: u64) -> String {
    let [root, parent] = halves(random());
    let mut text = String::with_capacity(80);
    // Writing to a String cannot fail.
    let _ = write!(text, "Root=1-{now_s:08x}-");
    push_hex(&mut text, &root[..12]);
    text.push_str(";Parent=");
    push_hex(&mut text, &parent[..8]);
    text.push_str(";Sampled=0");
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn halves(bytes: [u8; 32]) -> [[u8; 16]; 2] {
    let (mut first, mut second) = ([0; 16], [0; 16]);
    first.copy_from_slice(&bytes[..16]);
    second.copy_from_slice(&bytes[16..]);
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_uuids_and_differ_on_all_threads() {
        let many = || (0..1_000).map(|_| request()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(many)).collect();
        let ids: HashSet<Arc<str>> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(ids.len(), 4_000);
        for id in ids {
            let read = Uuid::parse_str(&id).unwrap();
            assert_eq!((read.get_version_num(), read.to_string().as_str()), (4, &*id));
        }
    }

    #[test]
    fn traces_have_the_form_of_aws() {
        let text = trace(0x5f0c_1234);
        assert!(text.starts_with("Root=1-5f0c1234-") && text.ends_with(";Sampled=0"), "{text}");
        assert_eq!(text.len(), "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0".len());
        assert_ne!(text, trace(0x5f0c_1234));
    }
}
