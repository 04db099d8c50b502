//! The loopback server, spoken to in raw HTTP/1.1.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::site::{self, Site};

/// `casemate serve` on a free port; killed when dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Server {
    pub fn start(site: &Site) -> Self {
        Self::by(site.command(&["serve", "--listen", "127.0.0.1:0"]))
    }

    /// By a command that becomes the server.
    pub fn by(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap_or_default();
        let address = started["listening"].as_str().unwrap_or_default().to_owned();
        let server = Self { child, address };
        assert!(!server.address.is_empty(), "{line}");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A site that is served.
pub struct Served {
    server: Server,
    site: Site,
}

/// A status and a body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Value,
}

impl Served {
    fn start() -> Self {
        Self::of(site::copy())
    }

    /// Serves this site.
    pub fn of(site: Site) -> Self {
        Self { server: Server::start(&site), site }
    }

    /// A site that is served by this server.
    pub fn by(server: Server, site: Site) -> Self {
        Self { server, site }
    }

    /// The server's process.
    pub fn process(&self) -> u32 {
        self.server.child.id()
    }

    /// Asks the server to stop, as an operator does, and waits until it has.
    pub fn stop(mut self) -> (ExitStatus, Site) {
        let id = self.server.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        // A guard against hanging, far above the server's own limits.
        let ended = (0..1200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            self.server.child.try_wait().unwrap()
        });
        (ended.expect("the server did not stop"), self.site)
    }

    fn token(&self, user: &str) -> String {
        fs::read_to_string(self.site.dir.join(format!("users/{user}.token"))).unwrap().trim().to_owned()
    }

    fn send(&self, request: &str, authorization: Option<&str>, body: &[u8]) -> Answer {
        let authorization = authorization.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
        let head = format!(
            "{request} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n{authorization}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(&self.server.address).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut bytes = Vec::new();
        std::thread::scope(|scope| {
            // A server that refuses early need not read to the end.
            scope.spawn(move || writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body)));
            let _ = stream.read_to_end(&mut bytes);
        });
        parse(&String::from_utf8(bytes).unwrap())
    }

    /// The site that is served.
    pub fn site(&self) -> &Site {
        &self.site
    }

    pub fn get(&self, route: &str, user: &str) -> Answer {
        self.send(&format!("GET {route}"), Some(&format!("Bearer {}", self.token(user))), b"")
    }

    pub fn post(&self, route: &str, user: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.token(user));
        self.send(&format!("POST {route}"), Some(&bearer), body.to_string().as_bytes())
    }

    pub fn post_bytes(&self, route: &str, user: &str, body: &[u8]) -> Answer {
        self.send(&format!("POST {route}"), Some(&format!("Bearer {}", self.token(user))), body)
    }
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_lowercase(), body: serde_json::from_str(body).unwrap_or_default() }
}

#[test]
fn without_the_right_token_everything_is_401() {
    let served = Served::start();
    let token = served.token("ana");
    let (good, zeros) = (format!("Bearer {token}"), format!("Bearer {}", "0".repeat(64)));
    let wrong = [
        None,
        Some(zeros),
        Some(format!("Basic {token}")),
        Some(token.clone()),
        Some(format!("Bearer {}", &token[1..])),
        Some(format!("Bearer {token}0")),
        Some("Bearer ".to_owned()),
    ];
    for authorization in &wrong {
        for request in ["GET /v1/health", "POST /v1/ask", "POST /v1/policy/evaluate"] {
            // A malformed body does not come before a wrong token.
            let answer = served.send(request, authorization.as_deref(), b"{");
            assert_eq!(answer.status, 401, "{request} {authorization:?}");
            assert_eq!(answer.body["error"], "host:unauthenticated");
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        }
    }
    assert_eq!(served.send("GET /v1/health", Some(&good), b"").status, 200);
}

#[test]
fn revocation_beside_the_server_ends_open_sessions() {
    let served = Served::of(site::fresh());
    let (ana, ben) = (format!("Bearer {}", served.token("ana")), format!("Bearer {}", served.token("ben")));
    let health = |bearer: &str| served.send("GET /v1/health", Some(bearer), b"").status;
    assert_eq!((health(&ana), health(&ben)), (200, 200));
    let revoked = served.site.casemate(&["keys", "revoke", "ana"]).expect(0);
    assert_eq!(revoked["by-server"], true);
    assert_eq!((health(&ana), health(&ben)), (401, 200));
    // Whom the server does not know it refuses, in its own words.
    let refused = served.site.casemate(&["keys", "revoke", "nobody"]).expect(2);
    assert!(refused["error"].as_str().unwrap().contains("no user `nobody`"), "{refused}");
    // Other changes of keys wait for the server to stop.
    served.site.casemate(&["keys", "issue", "ben"]).expect(1);
    let (_, site) = served.stop();
    let ended = site.records().into_iter().filter(|r| r["event"] == "session" && r["action"] == "closed");
    assert_eq!(ended.filter(|record| record["user"] == "ana").count(), 1);
    site.ask("ana", "What is a casemate?").expect(5);
}

#[test]
fn health_is_200() {
    let served = Served::start();
    assert_eq!(served.send("GET /healthz", None, b"").body, json!({ "status": "ok" }));
    let answer = served.send("GET /v1/health", Some(&format!("Bearer {}", served.token("ben"))), b"");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["generation"], 4);
    assert_eq!(answer.body["rehearsal"], true);
}

#[test]
fn ask_answers_or_denies() {
    let served = Served::start();
    let question = json!({ "question": "How does an authenticated cipher protect the integrity of a message?" });
    let answer = served.post("/v1/ask", "ana", &question);
    assert_eq!((answer.status, &answer.body["outcome"]["outcome"]), (200, &json!("answered")));
    assert!(site::titles(&answer.body).contains(&"Authenticated encryption".to_owned()), "{}", answer.body);
    let denied = served.post("/v1/ask", "ben", &question);
    assert_eq!((denied.status, &denied.body["outcome"]["reason"]), (200, &json!("need-to-know")));
    let filtered = json!({ "question": "What does a pool do?", "filter": { "licence": "BSD-3-Clause" } });
    assert_eq!(site::titles(&served.post("/v1/ask", "ben", &filtered).body), ["Bloom filters"]);
    let set = json!({ "question": "What does a pool do?", "where": ["licence in BSD-3-Clause,none-such"] });
    assert_eq!(site::titles(&served.post("/v1/ask", "ben", &set).body), ["Bloom filters"]);
    let wrong = json!({ "question": "What does a pool do?", "where": ["licence>=MIT"] });
    assert_eq!(served.post("/v1/ask", "ben", &wrong).status, 400);
}

#[test]
fn evaluate_decides_in_every_phase() {
    let served = Served::start();
    let evaluate = |body: &Value| {
        let answer = served.post("/v1/policy/evaluate", "ben", body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    assert_eq!(evaluate(&json!({ "text": "How do I book a room?" }))["decision"]["verdict"], "allow");
    assert_eq!(evaluate(&json!({ "text": "Which cipher?" }))["decision"]["reason"], "need-to-know");
    let passage = |compartment: &str, label: &str| json!({ "phase": "retrieval", "text": "text", "passage": { "compartment": compartment, "label": label } });
    assert_eq!(evaluate(&passage("engineering", "internal"))["decision"]["verdict"], "allow");
    assert_eq!(evaluate(&passage("engineering", "secret"))["decision"]["reason"], "no-read-up");
    assert_eq!(evaluate(&passage("cryptography", "public"))["decision"]["reason"], "need-to-know");
    let masked = evaluate(&json!({ "phase": "response", "text": "Write to a@b.example" }));
    assert_eq!(masked["decision"]["obligations"][0]["spans"][0]["kind"], "email");
}

#[test]
fn malformed_body_is_400() {
    let served = Served::start();
    let bearer = format!("Bearer {}", served.token("ana"));
    let bodies: [&[u8]; 6] = [
        b"",
        b"{",
        b"[]",
        b"{\"question\": 7}",
        b"{\"question\": \"a\", \"claims\": {\"clearance\": \"secret\"}}",
        b"{\"question\": \"\xff\"}",
    ];
    for body in bodies {
        let answer = served.send("POST /v1/ask", Some(&bearer), body);
        assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(body));
        assert_eq!(answer.body["error"], "bad-request");
    }
    let answer = served.send("POST /v1/policy/evaluate", Some(&bearer), br#"{"text": "a", "phase": "afterwards"}"#);
    assert_eq!(answer.status, 400);
}

#[test]
fn oversized_body_is_refused() {
    let served = Served::start();
    let bearer = format!("Bearer {}", served.token("ana"));
    let body = format!("{{\"text\": \"{}\"}}", "x".repeat(3 << 20));
    let answer = served.send("POST /v1/policy/evaluate", Some(&bearer), body.as_bytes());
    // The answer may be lost where the connection is reset with the rest of the body under way.
    assert!(matches!(answer.status, 0 | 413), "{answer:?}");
    // Below the limit of the body and above that of a text.
    let body = format!("{{\"text\": \"{}\"}}", "x".repeat((1 << 20) + 1));
    assert_eq!(served.send("POST /v1/policy/evaluate", Some(&bearer), body.as_bytes()).status, 400);
    assert_eq!(served.send("GET /v1/health", Some(&bearer), b"").status, 200);
}

#[test]
fn text_that_is_too_long_has_a_reason_of_its_own() {
    let served = Served::start();
    let answer = served.post("/v1/ask", "ana", &json!({ "question": "x".repeat(17 << 10) }));
    assert_eq!((answer.status, &answer.body["error"]), (400, &json!("host:bad-request")));
}

/// Nothing that connects and then says nothing can keep a place, or keep others out, or keep the server from stopping.
#[test]
fn half_open_connections_end_by_themselves() {
    let served = Served::start();
    let connect = |beginning: &str| {
        let mut stream = TcpStream::connect(&served.server.address).unwrap();
        stream.write_all(beginning.as_bytes()).unwrap();
        // Longer than any limit of the server: a guard against hanging, not a measurement.
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    };
    let bearer = format!("Bearer {}", served.token("ana"));
    let body_missing =
        format!("POST /v1/ask HTTP/1.1\r\nHost: gate\r\nAuthorization: {bearer}\r\nContent-Length: 100\r\n\r\n{{");
    let mut slow = connect(&body_missing);
    // More than are served at once.
    let mut open: Vec<TcpStream> =
        (0..560).map(|n| connect(["", "GET /healthz HT", "GET /healthz HTTP/1.1\r\nHost: g"][n % 3])).collect();
    assert_eq!(served.send("GET /healthz", None, b"").status, 200);
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    let answer = parse(&answer);
    assert_eq!((answer.status, &answer.body["error"]), (408, &json!("too-slow")));
    for stream in &mut open {
        let mut rest = Vec::new();
        // Ended by the server: end of file or a reset, never the guard.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
    }
    let held = connect("GET /healthz HT");
    let (ended, site) = served.stop();
    assert!(ended.success());
    drop(held);
    site.casemate(&["audit", "verify"]).expect(0);
}

/// Whoever is not served cannot keep one of the places that connections have.
#[test]
fn strangers_cannot_keep_a_connection() {
    let served = Served::start();
    let keep_open = |request: &str, more: &str| {
        let mut stream = TcpStream::connect(&served.server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        // A second request lies behind the first and is not read.
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: gate\r\n{more}\r\n").repeat(2).as_bytes()).unwrap();
        let mut text = Vec::new();
        if let Err(error) = stream.read_to_end(&mut text) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        String::from_utf8(text).unwrap()
    };
    let wrong = "Authorization: Bearer nobody\r\n";
    for (request, more, status) in [
        ("GET /healthz", "", 200),
        ("GET /v1/health", "", 401),
        ("GET /v1/health", wrong, 401),
        ("GET /nowhere", "", 404),
        ("PUT /healthz", "", 405),
    ] {
        let text = keep_open(request, more);
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{request}: {text}");
        let answer = parse(&text);
        assert!(answer.status == status && answer.head.contains("connection: close"), "{request}: {text}");
    }
}

/// An index of the log would count passages that a user may not read.
#[test]
fn nothing_that_counts_passages_is_told_over_http() {
    let served = Served::start();
    let asked = served.post("/v1/ask", "ana", &json!({ "question": "What does a pool do?" }));
    let evaluated = served.post("/v1/policy/evaluate", "ana", &json!({ "text": "a" }));
    for answer in [asked, evaluated] {
        assert_eq!(answer.status, 200);
        let keys: Vec<&String> = answer.body.as_object().unwrap().keys().collect();
        assert!(
            keys.iter().all(|key| ["decision", "id", "outcome", "policy", "rehearsal"].contains(&key.as_str())),
            "{keys:?}"
        );
    }
}

#[test]
fn sessions_are_recorded_as_closed_when_the_server_stops() {
    let served = Served::start();
    for user in ["ana", "ben"] {
        served.post("/v1/policy/evaluate", user, &json!({ "text": "a" }));
    }
    let (ended, site) = served.stop();
    assert!(ended.success());
    let records = site.records();
    let last: Vec<&Value> = records.iter().rev().take(2).collect();
    assert!(last.iter().all(|r| r["event"] == "session" && r["action"] == "closed"), "{last:?}");
    assert_ne!(last[0]["user"], last[1]["user"]);
}

#[test]
fn only_loopback_is_served() {
    let site = site::copy();
    let ended = site.casemate(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(ended.code != 0 && ended.text.contains("loopback"), "{}", ended.text);
}
