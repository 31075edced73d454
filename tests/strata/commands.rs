//! The commands beside `build`, as the users of docker, podman and skopeo type them.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::lab::{Lab, Running, said, succeed};

/// A lab with the image `app` in its store.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("ctx/f", "file\n");
    lab.write(
        "ctx/Dockerfile",
        "FROM @REG@/busybox\nCOPY f /f\nRUN echo there >/there\nCMD [\"cat\", \"/f\"]\n",
    );
    lab.ok(&["build", "-q", "-t", "app", "ctx"]);
    lab
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn run(lab: &Lab, arguments: &[&str]) -> Output {
    let all = [&["run"], arguments].concat();
    lab.strata(&all).output().expect("start it")
}

/// The output of a container that must end well.
fn inside(lab: &Lab, arguments: &[&str]) -> String {
    let done = run(lab, arguments);
    assert!(done.status.success(), "{arguments:?}: {}", said(&done));
    String::from_utf8(done.stdout).expect("it is text")
}

#[test]
fn names_are_listed_given_and_taken() {
    let lab = lab();
    lab.ok(&["tag", "app", "localhost:5000/x/y:z"]);
    lab.ok(&["tag", "app", "app:2"]);
    let all = json(&lab.images());
    let references: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|i| i["reference"].as_str())
        .collect();
    for name in [
        "docker.io/library/app:latest",
        "docker.io/library/app:2",
        "localhost:5000/x/y:z",
    ] {
        assert!(references.contains(&name), "{references:?}");
    }
    let table = lab.ok(&["images", "app"]);
    assert!(
        table.starts_with("REPOSITORY") && table.lines().count() == 3,
        "{table}"
    );
    let id = lab.ok(&["images", "-q", "app:2"]);
    assert_eq!(id.trim().len(), 12, "{id}");
    assert_eq!(lab.ok(&["rmi", "app:2"]), "Untagged: app:2\n");
    // An image ID that has two names needs --force, or goes with all of them.
    lab.ok(&["rmi", "-f", id.trim()]);
    assert_eq!(lab.ok(&["images", "-q", "app"]), "");
    let missing = lab.strata(&["rmi", "app"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        said(&missing).contains("no such image: app"),
        "{}",
        said(&missing)
    );
}

#[test]
fn every_transport_holds_the_same_image() {
    let lab = lab();
    let reg = lab.registry.host();
    let places = [
        "app".to_owned(),
        "copied:1".to_owned(),
        format!("docker://{reg}/copied:1"),
        "oci:lay:127.0.0.1:5000/with/colons:1".to_owned(),
        "oci-archive:a.tar:v1".to_owned(),
        "docker-archive:d.tar:app:1".to_owned(),
    ];
    let digest = json(&lab.ok(&["inspect", "app"]))[0]["Digest"].clone();
    let digest = digest.as_str().unwrap();
    for place in &places[1..] {
        assert_eq!(
            lab.ok(&["copy", "-q", "app", place]).trim(),
            digest,
            "{place}"
        );
    }
    for from in &places {
        for (i, to) in [
            "back:1",
            &format!("docker://{reg}/back:1"),
            "oci:back:v",
            "oci-archive:back.tar",
            "docker-archive:back2.tar:a:1",
        ]
        .iter()
        .enumerate()
        {
            assert_eq!(
                lab.ok(&["copy", "-q", from, to]).trim(),
                digest,
                "{i}: {from} {to}"
            );
        }
        // Seen where it is, as text and as JSON.
        let inspected = json(&lab.ok(&["inspect", from]));
        assert_eq!(inspected[0]["Digest"], digest, "{from}");
        let history = json(&lab.ok(&["history", "--format", "json", from]));
        assert_eq!(history[0]["created_by"], "CMD [\"cat\" \"/f\"]", "{from}");
        assert!(lab.ok(&["history", from]).contains("COPY f /f"));
        assert!(lab.ok(&["inspect", "--raw", from]).contains("\"layers\""));
    }
    let id = json(&lab.ok(&["inspect", "app"]))[0]["Id"].clone();
    for place in &places[2..] {
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args(["inspect", "--tls-verify=false", "--raw", place])
            .current_dir(&lab.folder);
        // An archive of docker's has no manifest of its own: skopeo makes one of the same configuration.
        assert_eq!(
            json(&succeed(&mut skopeo))["config"]["digest"],
            id,
            "{place}"
        );
    }
}

#[test]
fn saved_images_come_back() {
    let lab = lab();
    lab.ok(&["tag", "app", "app:2"]);
    lab.ok(&["save", "-o", "two.tar", "app", "app:2"]);
    lab.ok(&["save", "-o", "oci.tar", "--format", "oci-archive", "app"]);
    let second = lab.beside("second");
    let load = |file: &str| succeed(&mut lab.strata_on(&second, &["load", "-q", "-i", file]));
    let loaded = load("two.tar");
    assert!(
        loaded.contains("app:latest") && loaded.contains("app:2"),
        "{loaded}"
    );
    assert!(load("oci.tar").contains("Loaded image: app:latest"));
    let images =
        succeed(&mut lab.strata_on(&second, &["images", "-q", "--no-trunc", "app:latest"]));
    assert_eq!(
        images,
        lab.ok(&["images", "-q", "--no-trunc", "app:latest"])
    );
    succeed(&mut lab.shell("strata save app | strata --root piped load -q"));
    let podman = lab.beside("podman");
    // podman wants less than 50 characters here.
    let sockets = tempfile::tempdir_in("/tmp").unwrap();
    succeed(
        Command::new("podman")
            .arg("--root")
            .arg(podman.join("root"))
            .arg("--runroot")
            .arg(sockets.path())
            .args(["--storage-driver", "vfs", "load", "-q", "-i"])
            .arg(lab.folder.join("two.tar")),
    );
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let lab = lab();
    lab.ok(&["unpack", "app", "root"]);
    succeed(
        Command::new("tar")
            .args(["-C", "root", "-czf", "root.tgz", "."])
            .current_dir(&lab.folder),
    );
    lab.ok(&[
        "import",
        "root.tgz",
        "-t",
        "base",
        "-c",
        "ENV A=b",
        "-c",
        "CMD [\"cat\", \"/there\"]",
        "-m",
        "by hand",
    ]);
    assert_eq!(inside(&lab, &["base"]), "there\n");
    assert!(lab.ok(&["history", "base"]).contains("by hand"));
    let again = lab.strata(&["unpack", "app", "root"]).output().unwrap();
    assert!(
        !again.status.success() && said(&again).contains("--force"),
        "{}",
        said(&again)
    );
}

#[test]
fn a_store_says_what_it_costs_and_frees_it() {
    let lab = lab();
    let df = json(&lab.ok(&["df", "--format", "json"]));
    let du = succeed(Command::new("du").args(["-s", "-B1"]).arg(&lab.root));
    let du: f64 = du.split_whitespace().next().unwrap().parse().unwrap();
    let ratio = df["total_bytes"].as_f64().unwrap() / du;
    assert!((0.95..1.05).contains(&ratio), "df/du {ratio}");
    lab.ok(&["prune"]);
    assert_eq!(inside(&lab, &["app"]), "file\n");
    lab.ok(&["prune", "-af"]);
    assert_eq!(json(&lab.images()), Value::Array(Vec::new()));
    let df = json(&lab.ok(&["df", "--format", "json"]));
    assert_eq!(
        (&df["blobs"]["count"], &df["layers"]["count"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        json(&lab.ok(&["check", "--format", "json"]))["findings"],
        Value::Array(Vec::new())
    );
}

#[test]
fn run_ends_as_its_command_does() {
    let lab = lab();
    let code = |arguments: &[&str]| run(&lab, arguments).status.code();
    assert_eq!(code(&["app", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["app", "/f"]), Some(126));
    assert_eq!(code(&["app", "nosuch"]), Some(127));
    assert_eq!(code(&["-v", "/no/such:/x", "app", "true"]), Some(125));
    assert_eq!(code(&["-u", "nobody-here", "app", "true"]), Some(125));
    assert_eq!(code(&["--cpus", "0", "app", "true"]), Some(2));
    // A signal that the command has a handler for reaches it.
    let mut command = lab.strata(&[
        "run",
        "app",
        "sh",
        "-c",
        "trap 'exit 5' TERM; echo up >&2; while :; do sleep 0.01; done",
    ]);
    command.stdout(Stdio::null());
    let mut running = Running::start(command);
    running.hear("up");
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.child.wait().unwrap().code(), Some(5));
}

#[test]
fn run_takes_dockers_flags() {
    let lab = lab();
    lab.write("vol/inside", "volume\n");
    let volume = format!("{}/vol:/v", lab.folder.display());
    let closed = format!("{volume}:ro");
    for (arguments, expected) in [
        (&["--rm", "app"][..], "file\n"),
        (&["-e", "A=1", "app", "sh", "-c", "echo $A"], "1\n"),
        (&["-w", "/new/place", "app", "pwd"], "/new/place\n"),
        (
            &["-u", "1234:5", "app", "sh", "-c", "echo $(id -u):$(id -g)"],
            "1234:5\n",
        ),
        (&["--entrypoint", "echo", "app", "x"], "x\n"),
        (&["--hostname", "there", "app", "hostname"], "there\n"),
        (
            &["--network", "none", "app", "ls", "/sys/class/net"],
            "lo\n",
        ),
        (
            &[
                "-v",
                &volume,
                "app",
                "sh",
                "-c",
                "echo out >/v/out; cat /v/inside",
            ],
            "volume\n",
        ),
        (
            &[
                "-v",
                &closed,
                "app",
                "sh",
                "-c",
                "echo x 2>/dev/null >/v/x || cat /v/out",
            ],
            "out\n",
        ),
        (
            &[
                "--read-only",
                "app",
                "sh",
                "-c",
                "echo x 2>/dev/null >/x || echo closed",
            ],
            "closed\n",
        ),
        (
            &["app", "sh", "-c", "wc -c; ls /out /x 2>/dev/null | wc -l"],
            "0\n0\n",
        ),
    ] {
        assert_eq!(inside(&lab, arguments), expected, "{arguments:?}");
    }
    let mut child = lab
        .strata(&["run", "-i", "app", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"piped\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"6\n");
    // util-linux's script gives it a terminal.
    let tty = succeed(&mut lab.shell("script -qec 'strata run -it app sh -c \"test -t 0 && test -t 1 && echo $TERM terminal\"' /dev/null"));
    assert!(tty.contains("terminal"), "{tty}");
}

#[test]
fn limits_hold() {
    let lab = lab();
    let eater = [
        "--memory",
        "20m",
        "app",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=100M",
        "count=1",
    ];
    assert_eq!(run(&lab, &eater).status.code(), Some(137));
    let forks = run(
        &lab,
        &[
            "--pids-limit",
            "5",
            "app",
            "sh",
            "-c",
            "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait",
        ],
    );
    assert!(said(&forks).contains("can't fork"), "{}", said(&forks));
    // Two spinning processes get a fifth of a processor for a second, within a wide margin.
    let spin =
        "while :; do :; done & a=$!; while :; do :; done & b=$!; sleep 1; kill $a $b; wait; times";
    let spun = inside(&lab, &["--cpus", "0.2", "app", "sh", "-c", spin]);
    let children = spun.lines().last().unwrap();
    let seconds: f64 = children
        .split_whitespace()
        .filter_map(|t| t.strip_suffix('s')?.split_once('m')?.1.parse::<f64>().ok())
        .sum();
    assert!((0.05..0.6).contains(&seconds), "{spun}");
    let odd = run(&lab, &["--memory", "1q", "app", "true"]);
    assert_eq!(odd.status.code(), Some(2));
    for word in ["1q", "--memory", "64m"] {
        assert!(said(&odd).contains(word), "{}", said(&odd));
    }
}

#[test]
fn every_command_has_help_with_examples_pages_and_completions() {
    let lab = Lab::new();
    lab.ok(&["man", "man"]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.ok(&["completion", shell]).contains("build"), "{shell}");
    }
    let pages: Vec<String> = fs::read_dir(lab.folder.join("man"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(pages.len() > 20, "{pages:?}");
    for page in &pages {
        let Some(command) = page
            .strip_prefix("strata-")
            .and_then(|p| p.strip_suffix(".1"))
        else {
            continue;
        };
        let help = lab.ok(&[command, "--help"]);
        assert!(help.contains("Examples:"), "{command}: {help}");
    }
}

/// Debian's registry behind TLS and a password.
struct Guarded {
    child: Child,
    address: String,
}

impl Guarded {
    fn start(lab: &Lab) -> Guarded {
        succeed(&mut lab.shell(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca 2>/dev/null
             openssl req -newkey rsa:2048 -nodes -keyout key.pem -out r.csr -subj /CN=localhost 2>/dev/null
             echo subjectAltName=DNS:localhost >ext
             openssl x509 -req -in r.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile ext 2>/dev/null
             htpasswd -Bbn someone secret-word >passwords 2>/dev/null",
        ));
        let here = lab.folder.display();
        lab.write(
            "registry.yml",
            &format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {here}/registry}}}}\n\
                 http: {{addr: '127.0.0.1:0', tls: {{certificate: {here}/cert.pem, key: {here}/key.pem}}}}\n\
                 auth: {{htpasswd: {{realm: r, path: {here}/passwords}}}}\n"
            ),
        );
        let mut child = Command::new("docker-registry")
            .args(["serve", "registry.yml"])
            .current_dir(&lab.folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let mut lines = BufReader::new(child.stderr.take().expect("it is a pipe")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|l| {
                Some(
                    l.split_once("listening on 127.0.0.1:")?
                        .1
                        .split(',')
                        .next()?
                        .to_owned(),
                )
            })
            .expect("it says where it listens");
        // Its log has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        let address = format!("localhost:{port}");
        Guarded { child, address }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_guarded_registry_opens_for_credentials_from_everywhere() {
    let lab = lab();
    let registry = Guarded::start(&lab);
    let host = registry.address.as_str();
    let name = format!("{host}/some/app:1");
    let with = |arguments: &[&str], variables: &[(&str, &str)], input: &str| {
        let mut command = lab.strata(&[&["--tls-ca", "ca.pem"], arguments].concat());
        let mut child = command
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who reads no input may be gone already.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let done = child.wait_with_output().unwrap();
        (done.status.success(), said(&done))
    };
    let distrusted = lab.strata(&["push", "app", &name]).output().unwrap();
    assert!(
        said(&distrusted).contains("--tls-ca"),
        "{}",
        said(&distrusted)
    );
    let (pushed, words) = with(&["push", "app", &name], &[], "");
    assert!(!pushed && words.contains("denied"), "{words}");
    let login = ["login", "-u", "someone", "--password-stdin", host];
    let (entered, words) = with(&login, &[], "wrong");
    assert!(
        !entered && words.contains("refused the credentials"),
        "{words}"
    );
    let (entered, words) = with(&login, &[], "secret-word\n");
    assert!(
        entered && words.contains("Login Succeeded") && !words.contains("secret-word"),
        "{words}"
    );
    let kept = lab
        .folder
        .with_file_name("home")
        .join(".docker/config.json");
    assert_eq!(
        fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let (pushed, words) = with(&["push", "app", &name], &[], "");
    assert!(pushed, "{words}");
    assert!(with(&["logout", host], &[], "").0);
    assert!(!with(&["pull", &name], &[], "").0);

    // The same login, from other places.
    let auth =
        format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"c29tZW9uZTpzZWNyZXQtd29yZA==\"}}}}}}");
    lab.write("auth.json", &auth);
    let (pulled, words) = with(&["pull", &name], &[("REGISTRY_AUTH_FILE", "auth.json")], "");
    assert!(pulled, "{words}");
    lab.write(
        "docker/config.json",
        &format!("{{\"credHelpers\": {{\"{host}\": \"lab\"}}}}"),
    );
    lab.write(
        "bin/docker-credential-lab",
        "#!/bin/sh\necho '{\"ServerURL\": \"x\", \"Username\": \"someone\", \"Secret\": \"secret-word\"}'\n",
    );
    let helper = lab.folder.join("bin/docker-credential-lab");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}/bin:/usr/bin:/bin", lab.folder.display());
    let (pulled, words) = with(
        &["pull", &name],
        &[("DOCKER_CONFIG", "docker"), ("PATH", &path)],
        "",
    );
    assert!(pulled, "{words}");
    let (built, words) = with(
        &["build", "-q", "-t", &name, "--push", "ctx"],
        &[("REGISTRY_AUTH_FILE", "auth.json")],
        "",
    );
    assert!(built, "{words}");
}
