//! The first process of a box whose programs are started one by one: it holds the listener's making, runs what its channel
//! asks for, and reaps. It has no privilege left when it serves, and it never chooses what to run: asked to run a program
//! in its own place, it becomes that program, and a box without other programs has no process more than it needs.
//!
//! The frames are in `docs/design/002-channel.md`, "Box init".

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::descriptors::FIRST_OTHER;
use crate::frame;
use crate::nursery::{self, CONTROL};
use crate::spec::{BOX_FAILED, Network};
use crate::sys::{self, ChildBell, Error, Result};

/// The port of the listener in a box that has a loopback of its own.
pub const PORT: u16 = 9001;

/// How long a connection inside the box may take; everything else of the box's init waits meanwhile.
const CONNECT: Duration = Duration::from_millis(200);

/// A request to the init of a box.
#[derive(Debug, Clone, Deserialize)]
struct Order {
    /// `run`, `signal` or `connect`.
    t: String,
    /// The number that stands for the program in answers.
    id: u64,
    /// Program and arguments, as seen in the box.
    #[serde(default)]
    argv: Vec<String>,
    /// The whole environment, `KEY=value`.
    #[serde(default)]
    env: Vec<String>,
    /// Whether init becomes the program.
    #[serde(default)]
    replace: bool,
    /// Which of the program's descriptors 1, 2 and 3 the attached ones become, in order.
    #[serde(default)]
    places: Vec<RawFd>,
    /// The signal to send.
    #[serde(default)]
    signal: i32,
    /// The port on 127.0.0.1 to connect to.
    #[serde(default)]
    port: u16,
}

/// What the init of a box says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
enum Said {
    /// The listener is open; it is attached.
    Listening {
        /// Its port on 127.0.0.1.
        port: u16,
    },
    /// The program runs.
    Running {
        /// The order.
        id: u64,
    },
    /// The program could not be executed.
    NotRun {
        /// The order.
        id: u64,
        /// Why.
        error: String,
        /// The error number.
        errno: i32,
        /// Whether there is no such file at all (else an interpreter or a permission is missing).
        missing: bool,
        /// The first line of a script that is there and could not be started: it names the interpreter.
        #[serde(skip_serializing_if = "Option::is_none")]
        first_line: Option<String>,
    },
    /// The connection is attached.
    Connected {
        /// The order.
        id: u64,
    },
    /// A program that ran has ended.
    Ended {
        /// The order.
        id: u64,
        /// As `waitpid` gave it.
        status: i32,
    },
}

fn say(control: RawFd, said: &Said, fds: &[RawFd]) -> Result<()> {
    // A value of this type always has a JSON form.
    let header = serde_json::to_vec(said).unwrap_or_default();
    frame::send(control, &header, &[], fds).map_err(|e| Error::new("send on the channel", e))
}

/// Opens the box's listener in the network that this process is in, and sends it away; nothing of it stays here.
pub(crate) fn open_listener(network: Network) -> Result<()> {
    let port = if network == Network::None { PORT } else { 0 };
    let step = |e| Error::new(format!("listen on 127.0.0.1:{port}"), e);
    let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).map_err(step)?;
    let port = listener.local_addr().map_err(step)?.port();
    say(CONTROL, &Said::Listening { port }, &[listener.as_raw_fd()])
}

/// Serves the channel until it closes, which is the end of the box.
pub(crate) fn serve() -> Result<Infallible> {
    // What it runs has the same user: without this, a program could look into this process and speak in its name. A program
    // that is executed starts without the mark.
    sys::prctl("keep init to itself", libc::PR_SET_DUMPABLE, 0, 0)?;
    let bell = ChildBell::hang()?;
    let mut running: Vec<(libc::c_int, u64)> = Vec::new();
    loop {
        let [order, child] = sys::poll_readable([CONTROL, bell.number()], -1)?;
        if child {
            bell.hush();
            while let Some((pid, status)) = sys::reap(-1, libc::WNOHANG) {
                // Strangers (orphans of programs) are reaped in silence.
                if let Some(at) = running.iter().position(|(known, _)| *known == pid) {
                    let (_, id) = running.swap_remove(at);
                    say(CONTROL, &Said::Ended { id, status }, &[])?;
                }
            }
        }
        if order {
            let Some(frame) = frame::recv(CONTROL, 0).map_err(|e| Error::new("receive an order", e))? else {
                sys::leave(0)
            };
            let order: Order =
                serde_json::from_slice(&frame.header).map_err(|e| Error::new("read an order", e.into()))?;
            carry_out(&order, &frame.fds, &mut running)?;
        }
    }
}

fn carry_out(order: &Order, fds: &[OwnedFd], running: &mut Vec<(libc::c_int, u64)>) -> Result<()> {
    match order.t.as_str() {
        "run" if order.argv.is_empty() => Err(Error::invalid("an order to run nothing")),
        "run" if order.replace => {
            let e = become_program(order, fds);
            say(CONTROL, &not_run(order, &e), &[])
        }
        "run" => match start(order, fds) {
            Ok(pid) => {
                running.push((pid, order.id));
                say(CONTROL, &Said::Running { id: order.id }, &[])
            }
            Err(e) => say(CONTROL, &not_run(order, &e), &[]),
        },
        "signal" => {
            if let Some((pid, _)) = running.iter().find(|(_, id)| *id == order.id) {
                // It may be ending just now; then there is nothing left to signal.
                let _ = sys::kill(*pid, order.signal);
            }
            Ok(())
        }
        "connect" => match connect(order.port) {
            Ok(stream) => say(CONTROL, &Said::Connected { id: order.id }, &[stream.as_raw_fd()]),
            Err(e) => say(CONTROL, &not_run(order, &e), &[]),
        },
        _ => Err(Error::invalid("an order that nobody knows")),
    }
}

/// A connection to a program of this box, made with this box's rights and in its network.
fn connect(port: u16) -> Result<TcpStream> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
    TcpStream::connect_timeout(&address, CONNECT).map_err(|e| Error::new(format!("connect to port {port}"), e))
}

fn not_run(order: &Order, error: &Error) -> Said {
    let missing = order.argv.first().is_none_or(|path| std::fs::metadata(path).is_err());
    let first_line = order.argv.first().filter(|_| !missing).and_then(|path| first_line(path));
    Said::NotRun { id: order.id, error: error.to_string(), errno: error.code(), missing, first_line }
}

/// The first line of a script, as far as the kernel reads it (`BINPRM_BUF_SIZE`, 256 bytes).
fn first_line(path: &str) -> Option<String> {
    use std::io::Read;
    let file =
        std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).and_then(|_| std::fs::File::open(path).ok())?;
    let mut start = Vec::new();
    file.take(256).read_to_end(&mut start).ok()?;
    let line = start.split(|b| *b == b'\n').next().filter(|line| line.starts_with(b"#!"))?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// Becomes the program; returns only when that failed, with the channel where it was.
fn become_program(order: &Order, fds: &[OwnedFd]) -> Error {
    let kept = match sys::dup_above(CONTROL, FIRST_OTHER) {
        Ok(kept) => kept,
        Err(e) => return e,
    };
    let error = match hand_over(order, fds).and_then(|()| nursery::execute(&order.argv, &order.env)) {
        Ok(never) => match never {},
        Err(e) => e,
    };
    let back = sys::dup_to(kept, CONTROL, libc::O_CLOEXEC);
    sys::close(kept);
    back.err().unwrap_or(error)
}

/// Forks and executes; the error, if there is one, comes back through a pipe that a successful execution closes.
fn start(order: &Order, fds: &[OwnedFd]) -> Result<libc::c_int> {
    let (read, write) = sys::pipe()?;
    // SAFETY: the init of a box has one thread.
    let pid = unsafe { sys::fork() };
    if let Ok(0) = pid {
        sys::new_session();
        sys::reset_signals(true);
        let Err(e) = hand_over(order, fds).and_then(|()| nursery::execute(&order.argv, &order.env));
        let _ = sys::write_all(write, &e.code().to_ne_bytes());
        sys::leave(BOX_FAILED)
    }
    sys::close(write);
    let errno = if pid.is_ok() { sys::read_exact::<4>(read) } else { Ok(None) };
    sys::close(read);
    let pid = pid?;
    match errno {
        Ok(Some(bytes)) => {
            sys::reap(pid, 0);
            Err(Error::errno(format!("execute {}", order.argv[0]), i32::from_ne_bytes(bytes)))
        }
        _ => Ok(pid),
    }
}

/// Puts descriptors that came with an order in their places: standard output, standard error, a channel of its own.
fn hand_over(order: &Order, fds: &[OwnedFd]) -> Result<()> {
    if order.places.len() != fds.len() || order.places.iter().any(|place| !(1..=CONTROL).contains(place)) {
        return Err(Error::invalid("descriptors without a place"));
    }
    // What arrived lies above 3, because 0 to 3 are taken here.
    fds.iter().zip(&order.places).try_for_each(|(fd, place)| sys::dup_to(fd.as_raw_fd(), *place, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_s_orders_are_understood() {
        let run = br#"{"t":"run","id":3,"argv":["/var/task/bootstrap"],"env":["A=b"],"replace":true}"#;
        let order: Order = serde_json::from_slice(run).unwrap();
        assert_eq!((order.id, order.argv.len(), order.replace), (3, 1, true));
        let order: Order = serde_json::from_slice(br#"{"t":"signal","id":3,"signal":15}"#).unwrap();
        assert_eq!(order.signal, 15);
        assert_eq!(
            serde_json::to_string(&Said::Ended { id: 1, status: 9 }).unwrap(),
            r#"{"t":"ended","id":1,"status":9}"#
        );
        assert_eq!(
            serde_json::to_string(&Said::NotRun {
                id: 1,
                error: "e".into(),
                errno: 2,
                missing: true,
                first_line: None
            })
            .unwrap(),
            r#"{"t":"not_run","id":1,"error":"e","errno":2,"missing":true}"#
        );
    }
}
