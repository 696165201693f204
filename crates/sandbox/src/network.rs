//! The way from guests to the outside world: a pair of links per instance, address translation and name service for
//! all, and a packet filter that keeps guests from everything that is near.
//!
//! Root only. The rules are one table of nftables, named after the launcher's key and loaded in one transaction.

use crate::config::Config;
use crate::links::{End, Links};
use crate::netpool::Settings;
use crate::staging::name_server;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Links on the host that a clean-up looks at, at most.
const LINKS_MAX: usize = 100_000;
/// How long a clean-up waits for links to go with their namespaces.
const LINKS_WAIT_MS: u64 = 3_000;
/// How often it looks.
const LINKS_TICK_MS: u64 = 5;
/// The host's list of name servers, and the one that holds the true ones where the first names a local stub.
const RESOLV_CONFS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Why guests have no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program `nft` is not installed.
    #[error("the program nft is not installed")]
    NftMissing,
    /// rtnetlink cannot be used.
    #[error("open rtnetlink")]
    Netlink(#[source] io::Error),
    /// The kernel's forwarding switch cannot be set.
    #[error("enable IPv4 forwarding")]
    Forwarding(#[source] io::Error),
    /// `nft` could not be run.
    #[error("run nft")]
    NftRun(#[source] io::Error),
    /// `nft` refused the rules.
    #[error("nft refuses the rules: {answer}")]
    NftRefused {
        /// Its first line.
        answer: String,
    },
}

/// Guests' network of one launcher.
pub struct Network {
    links: Links,
    nft: PathBuf,
    table: String,
    prefix: String,
    subnet_address: u32,
    /// The server that answers guests' questions; `None` when the host has none that guests could ask.
    pub resolver: Option<Ipv4Addr>,
}

impl Network {
    /// Loads the rules and removes what an earlier run has left.
    pub fn open(config: &Config, key: &str) -> Result<Network, Error> {
        let nft = config.find_program("nft").ok_or(Error::NftMissing)?;
        let links = Links::open().map_err(Error::Netlink)?;
        let network = Network {
            links,
            nft,
            table: format!("tidegate_{key}"),
            prefix: link_prefix(key),
            subnet_address: config.subnet.address.into(),
            resolver: resolver(config),
        };
        network.remove_links(0);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(Error::Forwarding)?;
        network.run_nft(&network.rules(config))?;
        Ok(network)
    }

    /// The whole table. Declaring it before it is deleted makes the deletion succeed also when it is not there.
    fn rules(&self, config: &Config) -> String {
        let Network { table, prefix, .. } = self;
        let subnet = config.subnet;
        let dns = name_server(config);
        let translate = self.resolver.map_or(String::new(), |resolver| {
            format!(
                "iifname \"{prefix}*\" ip daddr {dns} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {resolver}"
            )
        });
        format!(
            "table inet {table} {{ }}
             delete table inet {table}
             table inet {table} {{
               chain input {{
                 type filter hook input priority -10; policy accept;
                 iifname != \"{prefix}*\" accept
                 ct status dnat ct original ip daddr {dns} meta l4proto {{ tcp, udp }} th dport 53 accept
                 drop
               }}
               chain forward {{
                 type filter hook forward priority -10; policy accept;
                 iifname \"{prefix}*\" jump from_guest
                 oifname \"{prefix}*\" ct state established,related accept
                 oifname \"{prefix}*\" drop
               }}
               chain from_guest {{
                 oifname \"{prefix}*\" drop
                 meta nfproto ipv6 drop
                 ip saddr != {subnet} drop
                 ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 240.0.0.0/4 }} drop
                 ip daddr {subnet} drop
               }}
               chain prerouting {{
                 type nat hook prerouting priority dstnat; policy accept;
                 {translate}
               }}
               chain postrouting {{
                 type nat hook postrouting priority srcnat; policy accept;
                 ip saddr {subnet} oifname != \"{prefix}*\" masquerade
               }}
             }}\n"
        )
    }

    fn run_nft(&self, rules: &str) -> Result<(), Error> {
        let mut command = Command::new(&self.nft);
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::NftRun)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.as_bytes()).map_err(Error::NftRun)?;
        }
        let output = child.wait_with_output().map_err(Error::NftRun)?;
        if output.status.success() {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        Err(Error::NftRefused { answer })
    }

    /// The guest's end of a link, and the host's address there. An index has four addresses of the subnet; the first
    /// four of all are for the name server.
    pub fn ends(&self, index: u32) -> (End, Ipv4Addr) {
        let first = self.subnet_address + 4 * (index + 1);
        (End { address: Ipv4Addr::from(first + 2), prefix_bits: 30 }, Ipv4Addr::from(first + 1))
    }

    /// Makes the link with this index: the host's end here, the guest's in a network namespace. Returns its name.
    /// `at_home`: the settings of the namespace that the caller is in.
    pub fn connect(&self, index: u32, namespace: BorrowedFd<'_>, at_home: &Settings) -> io::Result<String> {
        let name = format!("{}{index}", self.prefix);
        self.links.add_pair(&name, namespace)?;
        self.configure(&name, index, at_home).inspect_err(|_| self.disconnect(&name))?;
        Ok(name)
    }

    /// Removes a link. Otherwise it goes with the guest's namespace.
    pub fn disconnect(&self, name: &str) {
        if let Err(error) = self.links.remove(name) {
            eprintln!("tidegate launcher: remove the link {name}: {error}");
        }
    }

    fn configure(&self, name: &str, index: u32, at_home: &Settings) -> io::Result<()> {
        let (_, host) = self.ends(index);
        at_home.disable_ipv6(name);
        self.links.add_address(name, End { address: host, prefix_bits: 30 })?;
        self.links.up(name)
    }

    /// The kernel takes links away with the guests' namespaces, many at a time but a little later; those that are still
    /// there after the wait are removed one by one, which takes it far longer.
    fn remove_links(&self, wait_ms: u64) {
        for _ in 0..wait_ms / LINKS_TICK_MS {
            if self.own_links().next().is_none() {
                return;
            }
            std::thread::sleep(Duration::from_millis(LINKS_TICK_MS));
        }
        self.own_links().for_each(|name| self.disconnect(&name));
    }

    fn own_links(&self) -> impl Iterator<Item = String> {
        let all = fs::read_dir("/sys/class/net").into_iter().flatten().flatten().take(LINKS_MAX);
        all.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&self.prefix))
    }

    /// Takes the rules and every link away. Forwarding stays as it is: others may rely on it by now.
    pub fn remove(&self) {
        self.remove_links(LINKS_WAIT_MS);
        if let Err(error) = self.run_nft(&format!("delete table inet {}\n", self.table)) {
            eprintln!("tidegate launcher: remove the packet filter: {error}");
        }
    }
}

/// The host's ends of a launcher's links have names that begin so; a name has 15 characters at most.
pub fn link_prefix(key: &str) -> String {
    format!("tg{}-", &key[..4])
}

/// The first IPv4 name server that can be reached from a guest: not one on the host's own loopback.
pub fn resolver(config: &Config) -> Option<Ipv4Addr> {
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(address) => (!address.is_loopback() && !address.is_unspecified()).then_some(*address),
        IpAddr::V6(_) => None,
    };
    if let Some(configured) = &config.nameservers {
        return configured.iter().find_map(usable);
    }
    RESOLV_CONFS.iter().find_map(|path| name_servers(Path::new(path)).iter().find_map(usable))
}

fn name_servers(path: &Path) -> Vec<IpAddr> {
    parse_name_servers(&fs::read_to_string(path).unwrap_or_default())
}

/// The `nameserver` lines of a resolv.conf(5).
fn parse_name_servers(text: &str) -> Vec<IpAddr> {
    let values = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    values.filter_map(|value| value.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_server_lines() {
        let text = "# nameserver 1.1.1.1\nnameserver 127.0.0.53\n nameserver\t10.0.0.2 # x\nnameserver fe80::1%eth0\nnameserver\nsearch a\n";
        assert_eq!(parse_name_servers(text), [IpAddr::from([127, 0, 0, 53]), IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn configured_name_servers_win() {
        let mut config = Config::new(Path::new("/x"));
        config.nameservers =
            Some(vec!["::1".parse().unwrap(), "127.0.0.1".parse().unwrap(), "9.9.9.9".parse().unwrap()]);
        assert_eq!(resolver(&config), Some(Ipv4Addr::new(9, 9, 9, 9)));
        config.nameservers = Some(vec![]);
        assert_eq!(resolver(&config), None);
    }
}
