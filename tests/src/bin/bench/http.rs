use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Fixture, program};
use crate::report::{Baseline, Report, percentile};

const LONG: Duration = Duration::from_secs(5);
const BODY: &str = r#"{"phase":"request","text":"Which of our suppliers may see the drawings of the new hull, and until when may they keep them?"}"#;

/// Policy evaluations over loopback HTTP with the whole gate behind: session, chain, durable audit record before each answer. The
/// load generator shares the machine.
pub fn run(report: &mut Report) {
    let fixture = Fixture::new();
    for plugin in ["clearance", "disclosure"] {
        fixture.load(plugin);
    }
    let (mut server, address) = serve(&fixture);
    let runtime = runtime();
    let evaluate = evaluation(&fixture);
    let empty = runtime.block_on(empty_server());
    let (ceiling, _) = runtime.block_on(load(&empty, &evaluate, 64));
    report.row("http", "empty server, 64 connections", ceiling, "requests/s", None);
    for connections in [1, 8, 64] {
        let (rate, mut latencies) = runtime.block_on(load(&address, &evaluate, connections));
        let baseline = Baseline { name: "an empty server at 64 connections", ratio: rate / ceiling };
        let case = format!("policy evaluation, durable, {connections} connections");
        report.row("http", &case, rate, "decisions/s", Some(baseline));
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let value = percentile(&mut latencies, share);
            report.row("http", &format!("latency {name}, {connections} connections"), value, "us", None);
        }
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A request for a policy evaluation as ana.
fn evaluation(fixture: &Fixture) -> String {
    let token = std::fs::read_to_string(fixture.site.join("users/ana.token")).unwrap();
    format!(
        "POST /v1/policy/evaluate HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
        token.trim(),
        BODY.len()
    )
}

/// Serves the site under load for a while and stops it in good order; returns decisions a second.
pub fn load_served(fixture: &Fixture, connections: usize) -> f64 {
    let (mut server, address) = serve(fixture);
    let (rate, _) = runtime().block_on(load(&address, &evaluation(fixture), connections));
    let stopped = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(stopped.success() && server.wait().unwrap().success(), "the server did not stop in good order");
    rate
}

/// Answers every request at once with the same bytes: what loopback and the load generator allow.
async fn empty_server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A server of the site, and its address.
pub fn serve(fixture: &Fixture) -> (Child, String) {
    let mut server = Command::new(program())
        .arg("--site")
        .arg(&fixture.site)
        .args(["--json", "serve", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    (server, value["listening"].as_str().unwrap().to_owned())
}

/// Keeps `connections` busy for a while; returns answers a second and each answer's latency in microseconds.
async fn load(address: &str, request: &str, connections: usize) -> (f64, Vec<f64>) {
    let started = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (address, request) = (address.to_owned(), request.to_owned());
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(&address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut latencies = Vec::new();
                let mut buffer = Vec::with_capacity(4096);
                while started.elapsed() < LONG {
                    let sent = Instant::now();
                    stream.write_all(request.as_bytes()).await.unwrap();
                    answer(&mut stream, &mut buffer).await;
                    latencies.push(sent.elapsed().as_secs_f64() * 1e6);
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    (latencies.len() as f64 / started.elapsed().as_secs_f64(), latencies)
}

/// Reads one answer and insists on status 200.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    buffer.clear();
    loop {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "the server closed the connection");
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(buffer));
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        while buffer.len() < end + 4 + length {
            assert!(stream.read_buf(buffer).await.unwrap() > 0);
        }
        return;
    }
}
