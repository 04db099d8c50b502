//! The commands that open a site close their network first: looked at from outside, in the running process.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::site::{self, Site, text};

/// A command that waits for somebody to write into this pipe, instead of the file that it reads once it is locked down.
fn waiting(site: &Site, pipe: &Path, arguments: &[&str]) -> Child {
    let _ = fs::remove_file(pipe);
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    site.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Seccomp filters on a process (`Seccomp_filters` in `proc(5)`). The tests themselves may run under some, as in a container.
fn filters(process: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Whether the process puts filters on itself, asked until it does or the guard ends.
fn locked_down(child: &mut Child) -> bool {
    (0..600).any(|_| {
        let locked = filters(&child.id().to_string()) > filters("self");
        if !locked {
            assert!(child.try_wait().unwrap().is_none(), "the command ended before it read its file");
            std::thread::sleep(Duration::from_millis(100));
        }
        locked
    })
}

#[test]
fn every_command_that_opens_a_site_is_locked_down() {
    let site = site::copy();
    let token = fs::read(site.dir.join("users/ana.token")).unwrap();
    let pipe = site.dir.join("users/ana.token");
    let more = site.dir.with_file_name("more.jsonl");
    fs::write(&more, site::passage("more", "More", "One more passage.").to_string()).unwrap();
    for arguments in [
        &["ask", "What does a pool do?", "--as", "ana"][..],
        &["policy", "eval", "--text", "Anything?", "--as", "ana"],
        &["ingest", text(&more), "--as", "ana"],
    ] {
        let mut child = waiting(&site, &pipe, arguments);
        assert!(locked_down(&mut child), "{arguments:?}");
        fs::write(&pipe, &token).unwrap();
        assert!(child.wait().unwrap().success(), "{arguments:?}");
    }
    let bundle = site.dir.with_file_name("waiting.casemate");
    let mut load = waiting(&site, &bundle, &["plugin", "load", text(&bundle)]);
    assert!(locked_down(&mut load), "plugin load");
    fs::write(&bundle, b"no bundle").unwrap();
    assert!(!load.wait().unwrap().success());
}
