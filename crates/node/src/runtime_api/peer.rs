//! Who is at the other end of a connection to a listener that the whole machine can reach (`network = host`): the kernel's
//! table of connections says which user made it, and each box has a user of its own.
//!
//! It never lets somebody in because it cannot tell.

use std::net::SocketAddrV4;

/// The kernel's tables of connections, and what stands before an address of IPv4 in each. A socket of both families (a JVM's, say)
/// is in the second one, under addresses like `::ffff:127.0.0.1`.
const TABLES: &[(&str, &[u8])] =
    &[("/proc/net/tcp", b""), ("/proc/net/tcp6", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])];

/// Whether the connection from `peer` to `local` was made by this user.
pub fn is_of(uid: u32, peer: SocketAddrV4, local: SocketAddrV4) -> bool {
    let user = TABLES.iter().find_map(|(path, before)| {
        let table = std::fs::read_to_string(path).unwrap_or_default();
        user_of(&table, &shown(before, peer), &shown(before, local))
    });
    user == Some(uid)
}

/// The user of the socket at `from` that is connected with `to`, in the text of one of the tables.
fn user_of(table: &str, from: &str, to: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let here = fields.next()? == from && fields.next()? == to;
        here.then(|| fields.nth(4)?.parse().ok()).flatten()
    })
}

/// As the kernel writes it: the address as numbers of four bytes in the byte order of the machine.
fn shown(before: &[u8], address: SocketAddrV4) -> String {
    let bytes = [before, &address.ip().octets()].concat();
    let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let shown: String = words.map(|word| format!("{word:08X}")).collect();
    format!("{shown}:{:04X}", address.port())
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
    fn the_kernel_knows_who_connected_with_a_socket_of_both_families() {
        use rustix::net::{AddressFamily, SocketType, connect, getsockname, socket};
        use std::net::{Ipv6Addr, SocketAddrV6};
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(local) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        let Ok(client) = socket(AddressFamily::INET6, SocketType::STREAM, None) else {
            eprintln!("SKIPPED sockets of both families: this machine has no IPv6");
            return;
        };
        let mapped = SocketAddrV6::new(Ipv6Addr::from_bits(0xffff_7f00_0001), local.port(), 0, 0);
        connect(&client, &mapped).unwrap();
        let SocketAddr::V4(peer) = listener.accept().unwrap().1 else { panic!("not IPv4") };
        assert_eq!(SocketAddrV6::try_from(getsockname(&client).unwrap()).unwrap().port(), peer.port());
        let me = rustix::process::geteuid().as_raw();
        assert!(is_of(me, peer, local));
        assert!(!is_of(me + 1, peer, local));
    }

    #[test]
    fn a_line_of_another_connection_is_not_taken() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0100007F:ABCD 01 00000000:00000000 00:00000000 00000000  200017        0 1 1 0 20 4 0 10 -1\n";
        let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let at = |port| shown(b"", at(port));
        assert_eq!(user_of(table, &at(0x1f90), &at(0xabcd)), Some(200_017));
        assert_eq!(user_of(table, &at(0xabcd), &at(0x1f90)), None);
    }
}
