//! What the launcher is told at start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// Where a machine's own programs are. The `PATH` of services often lacks some of these.
pub const SYSTEM_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Subnets of 16 bits that a server chooses from.
const SUBNETS: u8 = 64;
/// Sandboxes that may be in the making or on their way out besides those of instances and those in stock.
const STARTING_SPARE: u32 = 16;

/// The launcher's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The data folder; made when it is missing.
    pub data_dir: PathBuf,
    /// As root: the daemon's user and group id; sandboxes have the ids behind it, 64 more than `instances_max`, and
    /// zygotes the one behind those.
    pub uid_base: u32,
    /// Addresses for guests, four per instance.
    pub subnet: Subnet,
    /// Whether another subnet will do when another server of this machine has this one.
    pub subnet_is_any: bool,
    /// Name servers for guests; `None` means those of the host.
    pub nameservers: Option<Vec<IpAddr>>,
    /// Interpreters by runtime; they win over those that are found.
    pub runtimes: BTreeMap<String, RuntimeSource>,
    /// Instances at one time, at most; a further start fails.
    pub instances_max: u32,
    /// Certificates that guests trust; `None` means the host's.
    pub ca_bundle: Option<PathBuf>,
    /// Folders in which programs are looked for: `nft`, `mke2fs` and interpreters.
    pub search_path: Vec<PathBuf>,
    /// The user's own folder, where version managers keep interpreters.
    pub home: Option<PathBuf>,
    /// Files for `/var/runtime`: relative path and contents.
    pub shims: &'static [(&'static str, &'static [u8])],
}

impl Config {
    /// The defaults for a data folder.
    pub fn new(data_dir: &Path) -> Config {
        Config {
            data_dir: data_dir.to_owned(),
            uid_base: 2_000_000,
            subnet: Subnet::of_data_dir(data_dir),
            subnet_is_any: true,
            nameservers: None,
            runtimes: BTreeMap::new(),
            instances_max: 1_000,
            ca_bundle: None,
            search_path: SYSTEM_PATH.iter().map(PathBuf::from).collect(),
            home: None,
            shims: &[],
        }
    }

    /// Sandboxes at one time: those of instances, and those in stock.
    pub(crate) fn slots(&self) -> u32 {
        self.instances_max.saturating_add(crate::stock::ALL_MOST as u32 + STARTING_SPARE)
    }

    /// As root: the user id of zygotes, the last one of our range.
    pub(crate) fn zygote_uid(&self) -> u32 {
        self.uid_base.saturating_add(self.slots()).saturating_add(1)
    }

    /// The first program of this name in the search path.
    pub(crate) fn find_program(&self, name: &str) -> Option<PathBuf> {
        self.search_path.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
    }
}

/// Where the interpreter of a runtime comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeSource {
    /// An interpreter of the host: its executable file.
    Interpreter(PathBuf),
    /// A folder that holds a whole root file system with the interpreter in it.
    Root(PathBuf),
}

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The first address.
    pub address: Ipv4Addr,
    /// Bits that all addresses share, 8 to 28.
    pub prefix_bits: u8,
}

/// Why a text is not a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a subnet has the shape 100.96.0.0/16, with 8 to 28 bits and no bit set behind them")]
pub struct SubnetError;

impl Subnet {
    /// Reads `address/bits`.
    pub fn parse(text: &str) -> Result<Subnet, SubnetError> {
        let (address, bits) = text.split_once('/').ok_or(SubnetError)?;
        let address: Ipv4Addr = address.parse().map_err(|_| SubnetError)?;
        let prefix_bits: u8 = bits.parse().map_err(|_| SubnetError)?;
        let subnet = Subnet { address, prefix_bits };
        if !(8..=28).contains(&prefix_bits) || u32::from(address) & (subnet.addresses() - 1) != 0 {
            return Err(SubnetError);
        }
        Ok(subnet)
    }

    /// The subnet of a server whose configuration names none: one of the 64 with 16 bits in 100.64.0.0/10, the range
    /// that is nobody's own (RFC 6598). Servers on one machine have different data folders, and so most likely
    /// different subnets; where not, `prepare` takes one of [`Subnet::others`].
    fn of_data_dir(path: &Path) -> Subnet {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Subnet::numbered(u8::from_str_radix(&key_of(&path)[..2], 16).unwrap_or(0))
    }

    fn numbered(number: u8) -> Subnet {
        Subnet { address: Ipv4Addr::new(100, 64 + number % SUBNETS, 0, 0), prefix_bits: 16 }
    }

    /// This one of the 64 and the others, each once.
    pub(crate) fn others(self) -> impl Iterator<Item = Subnet> {
        let own = self.address.octets()[1] % SUBNETS;
        (0..SUBNETS).map(move |further| Subnet::numbered(own + further))
    }

    /// How many addresses it has.
    pub(crate) fn addresses(&self) -> u32 {
        1 << (32 - u32::from(self.prefix_bits.clamp(8, 28)))
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// A short name for one data folder, the same in every run: eight hexadecimal digits of the FNV-1a hash of its
/// canonical path. Everything that outlives a killed launcher carries it.
pub(crate) fn key_of(canonical: &Path) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in canonical.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{:08x}", (hash ^ (hash >> 32)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        assert_eq!(Subnet::parse("100.96.0.0/16").unwrap().to_string(), "100.96.0.0/16");
        for bad in ["", "100.96.0.0", "100.96.0.1/16", "10.0.0.0/7", "10.0.0.0/29", "a/8", "10.0.0.0/8/8"] {
            assert_eq!(Subnet::parse(bad), Err(SubnetError), "{bad}");
        }
    }

    #[test]
    fn others_are_all_and_begin_with_the_own() {
        let own = Subnet::parse("100.90.0.0/16").unwrap();
        let all: Vec<String> = own.others().map(|subnet| subnet.to_string()).collect();
        assert_eq!(all[..2], ["100.90.0.0/16", "100.91.0.0/16"]);
        assert_eq!((all.len(), all[37].as_str(), all[38].as_str()), (64, "100.127.0.0/16", "100.64.0.0/16"));
    }

    #[test]
    fn keys_are_short_and_differ() {
        let a = key_of(Path::new("/var/lib/tidegate"));
        assert_eq!(a.len(), 8);
        assert_ne!(a, key_of(Path::new("/var/lib/tidegate2")));
    }
}
