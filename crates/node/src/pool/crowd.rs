//! How many processes of this machine want a processor now, as the kernel counts them. Where they are many, one more
//! busy instance makes nobody faster.
//!
//! It never decides anything; a machine that does not tell is taken for a quiet one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old an answer may be: asking costs as much as a short call.
const AGE: Duration = Duration::from_millis(2);

/// The kernel's count, asked for now and then.
#[derive(Debug)]
pub struct Crowd {
    file: Option<File>,
    last: Mutex<(Option<Instant>, u32)>,
}

impl Crowd {
    /// Counts by `/proc/loadavg` (proc_loadavg(5): the fourth field begins with the number of runnable entities).
    pub fn new() -> Self {
        Crowd { file: File::open("/proc/loadavg").ok(), last: Mutex::default() }
    }

    /// Whether more than `most` processes run or are ready to.
    pub fn more_than(&self, most: u32) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_none_or(|when| when.elapsed() > AGE) {
            *last = (Some(Instant::now()), self.ask());
        }
        last.1 > most
    }

    fn ask(&self) -> u32 {
        let mut text = [0u8; 64];
        let read = self.file.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        std::str::from_utf8(&text[..read]).ok().and_then(runnable).unwrap_or(0)
    }
}

fn runnable(text: &str) -> Option<u32> {
    text.split_ascii_whitespace().nth(3)?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runnable_are_counted() {
        assert_eq!(runnable("0.37 1.40 1.81 3/180 12345\n"), Some(3));
        assert_eq!(runnable("0.37 1.40"), None);
        assert!(Crowd::new().ask() >= 1, "at least this test runs");
    }
}
