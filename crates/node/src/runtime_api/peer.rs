//! Who is at the other end of a connection to a listener that the whole machine can reach (`network = host`): the kernel's
//! table of connections says which user made it, and each box has a user of its own.
//!
//! It never lets somebody in because it cannot tell.

use std::net::SocketAddrV4;
use std::path::Path;

/// Whether the connection from `peer` to `local` was made by this user.
pub fn is_of(uid: u32, peer: SocketAddrV4, local: SocketAddrV4) -> bool {
    let table = std::fs::read_to_string(Path::new("/proc/net/tcp")).unwrap_or_default();
    user_of(&table, peer, local) == Some(uid)
}

/// The user of the socket at `peer` that is connected with `local`, in the text of `/proc/net/tcp`.
fn user_of(table: &str, peer: SocketAddrV4, local: SocketAddrV4) -> Option<u32> {
    let (from, to) = (shown(peer), shown(local));
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let here = fields.next()? == from && fields.next()? == to;
        here.then(|| fields.nth(4)?.parse().ok()).flatten()
    })
}

/// As the kernel writes it: the address as one number in the byte order of the machine.
fn shown(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    #[test]
    fn the_kernel_knows_who_connected() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (SocketAddr::V4(peer), SocketAddr::V4(local)) = (client.local_addr().unwrap(), client.peer_addr().unwrap())
        else {
            panic!("not IPv4")
        };
        let me = rustix::process::geteuid().as_raw();
        assert!(is_of(me, peer, local));
        assert!(!is_of(me + 1, peer, local));
        assert!(!is_of(me, SocketAddrV4::new(*peer.ip(), peer.port() ^ 1), local));
    }

    #[test]
    fn a_line_of_another_connection_is_not_taken() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0100007F:ABCD 01 00000000:00000000 00:00000000 00000000  200017        0 1 1 0 20 4 0 10 -1\n";
        let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        assert_eq!(user_of(table, at(0x1f90), at(0xabcd)), Some(200_017));
        assert_eq!(user_of(table, at(0xabcd), at(0x1f90)), None);
    }
}
