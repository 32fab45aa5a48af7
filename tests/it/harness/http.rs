//! A blocking HTTP/1.1 client that can also misbehave, and forms.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;

/// An answer as it came.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
    /// The same, if the status is this.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text().chars().take(600).collect::<String>());
        self
    }
    /// The member `error` of the body.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

/// One connection that is kept.
pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Conn {
    pub fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE * 2))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Conn { stream, buffer: Vec::new() })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes these bytes, whatever they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request with a length and reads its answer.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let whole = whole(method, path, headers, body);
        // A server that refuses a body early may close its reading side: its answer is still to be read.
        let sent = self.send(&whole);
        self.answer(method == "HEAD").map_err(|e| sent.err().unwrap_or(e))
    }

    /// Sends a request and reads the head of its answer; the body comes by `chunk`.
    pub fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        self.send(&whole(method, path, headers, body))?;
        self.answer(true)
    }

    /// Reads one answer.
    pub fn answer(&mut self, head_only: bool) -> std::io::Result<Answer> {
        let torn = |what: &str| std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what.to_owned());
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                    break at;
                }
                if self.fill()? == 0 {
                    return Err(torn("closed before the end of the head"));
                }
            };
            let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 4);
            let mut lines = head.split("\r\n");
            let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
            let status: u16 = status.ok_or_else(|| torn("no status line"))?;
            let headers: Vec<(String, String)> = lines
                .filter_map(|l| l.split_once(':'))
                .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
                .collect();
            if status == 100 {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new() };
            if head_only || status == 204 || status == 304 {
                return Ok(answer);
            }
            if answer.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
                answer.body = self.chunks()?;
            } else if let Some(length) = answer.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
                while self.buffer.len() < length {
                    if self.fill()? == 0 {
                        return Err(torn("closed in the body"));
                    }
                }
                answer.body = self.buffer.drain(..length).collect();
            } else {
                while self.fill()? > 0 {}
                answer.body = std::mem::take(&mut self.buffer);
            }
            return Ok(answer);
        }
    }

    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk()? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The next chunk of an answer whose head has been read; `None` at its proper end, an error where it breaks off.
    pub fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let torn = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed in a chunk");
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                break at;
            }
            if self.fill()? == 0 {
                return Err(torn());
            }
        };
        let size =
            usize::from_str_radix(String::from_utf8_lossy(&self.buffer[..end]).trim(), 16).map_err(|_| torn())?;
        while self.buffer.len() < end + 2 + size + 2 {
            if self.fill()? == 0 {
                return Err(torn());
            }
        }
        let chunk = self.buffer[end + 2..end + 2 + size].to_vec();
        self.buffer.drain(..end + 2 + size + 2);
        Ok((size > 0).then_some(chunk))
    }

    fn fill(&mut self) -> std::io::Result<usize> {
        let mut block = [0; 65536];
        // A socket with a time limit is not restarted when the kernel wakes a thread for something else.
        let n = loop {
            match self.stream.read(&mut block) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.buffer.extend_from_slice(&block[..n]);
        Ok(n)
    }

    /// Everything that still comes until the other side closes; `None` when it does not within this time.
    pub fn rest(&mut self, within: Duration) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let until = Instant::now() + within;
        loop {
            match self.fill() {
                Ok(0) => return Some(std::mem::take(&mut self.buffer)),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(_) => return Some(std::mem::take(&mut self.buffer)),
            }
            if Instant::now() > until {
                return None;
            }
        }
    }
}

pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

/// A `multipart/form-data` body and its content type.
pub fn form(fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> (String, Vec<u8>) {
    const BOUNDARY: &str = "----offshoot-test-boundary-5f1c";
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend_from_slice(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").as_bytes(),
        );
    }
    if let Some((name, data)) = file {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: application/zip\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

/// A request with a length, as bytes.
fn whole(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}
