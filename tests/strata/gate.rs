//! `layers --fail-on`: exit codes, what is said, JUnit as python's parser reads it, SARIF as its schema wants it, and lines of
//! Dockerfiles. What each rule says of which image, `src/inspect/gate` tests.

use serde_json::Value;

use crate::lab::{Lab, said, succeed};

/// Reads JUnit with another parser, and says the cases: name, lines, failures.
const JUNIT: &str = "import sys, json, xml.etree.ElementTree as tree
top = tree.parse(sys.argv[1]).getroot()
assert top.tag == 'testsuites', top.tag
suite, = top
cases = suite.findall('testcase')
for node in (top, suite):
    assert int(node.get('tests')) == len(cases)
    assert int(node.get('failures')) == len(suite.findall('testcase/failure'))
    assert node.get('errors') == node.get('skipped') == '0'
def case(node):
    failure = node.find('failure')
    text = None if failure is None else failure.get('message') + '\\n' + failure.text
    return [node.get('name'), node.get('file'), node.get('line'), text]
print(json.dumps([case(node) for node in cases]))";

fn junit(lab: &Lab, file: &str) -> Vec<Value> {
    let mut command = lab.shell("exec python3 -c \"$0\" \"$@\"");
    command.arg(JUNIT).arg(file);
    serde_json::from_str(&succeed(&mut command)).expect("python says JSON")
}

/// The run of a SARIF document that has what the schema of 2.1.0 requires, and what code scanning does.
fn sarif(text: &str) -> Value {
    let document: Value = serde_json::from_str(text).expect("it is JSON");
    assert_eq!(document["version"], "2.1.0");
    assert!(
        document["$schema"]
            .as_str()
            .expect("a text")
            .contains("sarif-schema-2.1.0")
    );
    let run = document["runs"][0].clone();
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "strata");
    let rules = driver["rules"].as_array().expect("a list");
    for rule in rules {
        for text in ["shortDescription", "fullDescription", "help"] {
            assert!(
                !rule[text]["text"].as_str().expect("a text").is_empty(),
                "{rule}"
            );
        }
    }
    let mut prints = std::collections::BTreeSet::new();
    for result in run["results"]
        .as_array()
        .expect("there are results, maybe none")
    {
        assert!(
            !result["message"]["text"]
                .as_str()
                .expect("a text")
                .is_empty()
        );
        let index = usize::try_from(result["ruleIndex"].as_u64().expect("a number")).expect("few");
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert_eq!(result["level"], "error");
        let place = &result["locations"][0]["physicalLocation"];
        let uri = place["artifactLocation"]["uri"].as_str().expect("a text");
        assert!(
            !uri.is_empty() && !uri.starts_with('/') && !uri.contains([' ', ':', '\\']),
            "{uri}"
        );
        let (first, last) = lines(result);
        assert!(1 <= first && first <= last, "{result}");
        let print = result["partialFingerprints"]["primaryLocationLineHash"]
            .as_str()
            .expect("a text");
        assert!(prints.insert(print.to_owned()), "{print} twice");
    }
    run
}

fn lines(result: &Value) -> (u64, u64) {
    let region = &result["locations"][0]["physicalLocation"]["region"];
    (
        region["startLine"].as_u64().expect("a number"),
        region["endLine"].as_u64().expect("a number"),
    )
}

/// `RULE PATH URI:FIRST-LAST` of each result.
fn places(run: &Value) -> Vec<String> {
    let results = run["results"].as_array().expect("a list").iter();
    let place = |result: &Value| {
        let location = &result["locations"][0];
        let logical = location["logicalLocations"].as_array();
        let path = logical.into_iter().flatten().find(|l| l["kind"] == "file");
        let path = path.map_or("-", |l| l["fullyQualifiedName"].as_str().expect("a text"));
        let uri = location["physicalLocation"]["artifactLocation"]["uri"]
            .as_str()
            .expect("a text");
        let (first, last) = lines(result);
        format!(
            "{} {path} {uri}:{first}-{last}",
            result["ruleId"].as_str().expect("a text")
        )
    };
    results.map(place).collect()
}

/// A repository with a Dockerfile of several stages, a here-document and a base; every stage leaves something behind.
fn repository(lab: &Lab) {
    lab.write(".git/HEAD", "ref: refs/heads/main\n");
    lab.write("svc/secret/.npmrc", "//r/:_authToken=hunter2hunter2\n");
    lab.write("svc/secret/plain.npmrc", "registry=x\n");
    lab.write("svc/secret/public.pem", "-----BEGIN CERTIFICATE-----\n");
    lab.write(
        "svc/secret/private.pem",
        "-----BEGIN PRIVATE KEY-----\nhunter3hunter3\n",
    );
    lab.write(
        "svc/Dockerfile",
        "FROM scratch AS unused\nCOPY secret /no\n\
         FROM @REG@/modes AS tools\n\
         RUN touch /tool && \\\n    chmod 4755 /tool\n\n\
         FROM tools\n\
         COPY secret /etc/s\n\
         COPY --chmod=4711 <<X /doc\nhi\nX\n\
         RUN rm /etc/s/private.pem\n",
    );
}

#[test]
fn broken_rules_name_the_lines_of_the_dockerfile() {
    let lab = Lab::new();
    repository(&lab);
    lab.ok(&["build", "-q", "-t", "app", "svc"]);
    let rules = "setuid own,secret-like,root-user,layers>3 own,file>1GB";
    let arguments = [
        "layers",
        "--fail-on",
        rules,
        "--junit",
        "j.xml",
        "--sarif",
        "s.json",
        "app",
    ];
    let output = lab.strata(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("Dockerfile:8 COPY secret /etc/s"),
        "{stdout}"
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("4 of 5 rules are broken"), "{stderr}");
    assert!(
        stderr.contains("deletes it, and it is still in the image"),
        "{stderr}"
    );
    let everything = [
        said(&output),
        std::fs::read_to_string(lab.folder.join("j.xml")).unwrap(),
        std::fs::read_to_string(lab.folder.join("s.json")).unwrap(),
    ]
    .concat();
    assert!(!everything.contains("hunter"), "no content is told");

    let text = std::fs::read_to_string(lab.folder.join("s.json")).unwrap();
    assert_eq!(
        places(&sarif(&text)),
        [
            "setuid /tool svc/Dockerfile:4-5",
            "setuid /doc svc/Dockerfile:9-11",
            "secret-like /etc/s/.npmrc svc/Dockerfile:8-8",
            "secret-like /etc/s/private.pem svc/Dockerfile:8-8",
            "root-user - svc/Dockerfile:3-3",
            "layers - svc/Dockerfile:12-12",
        ]
    );
    let cases = junit(&lab, "j.xml");
    let names: Vec<_> = cases
        .iter()
        .map(|case| (&case[0], &case[1], &case[2]))
        .collect();
    assert_eq!(names[0].0, "setuid own");
    assert_eq!(
        (names[0].1, names[0].2),
        (&"svc/Dockerfile".into(), &"4".into())
    );
    assert!(cases[4][3].is_null(), "{cases:?}");
    let json = lab
        .strata(&["layers", "--format", "json", "--fail-on", rules, "app"])
        .output()
        .unwrap();
    assert_eq!(json.status.code(), Some(3));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["gate"]["passed"], false);
    assert_eq!(json["gate"]["base"]["from"]["line"], 3);

    // One image, one document; and what no rule is broken by has one, too.
    lab.strata(&arguments).output().unwrap();
    assert_eq!(
        std::fs::read_to_string(lab.folder.join("s.json")).unwrap(),
        text
    );
    let fine = [
        "layers",
        "--fail-on",
        "size>1GB",
        "--junit",
        "j.xml",
        "--sarif",
        "-",
        "app",
    ];
    let run = sarif(&lab.ok(&fine));
    assert_eq!(run["results"], Value::Array(Vec::new()));
    assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "size");
    assert!(junit(&lab, "j.xml")[0][3].is_null());
}

#[test]
fn triggers_bases_and_images_of_others() {
    let lab = Lab::new();
    lab.write(
        "on/Dockerfile",
        "FROM @REG@/busybox\nONBUILD RUN touch /x && chmod 4755 /x\n",
    );
    lab.ok(&["build", "-q", "-t", "on", "on"]);
    lab.write(
        "by/Dockerfile",
        "ARG A=1\nFROM on\nRUN touch /y && chmod 4755 /y\n",
    );
    lab.ok(&["build", "-q", "-t", "by", "by"]);
    lab.ok(&["build", "-q", "-t", "@REG@/pushed", "by"]);
    let gate = |rules: &str, image: &str, more: &[&str]| {
        let mut arguments = vec!["layers", "--fail-on", rules, "--sarif", "-"];
        arguments.extend(more);
        arguments.push(image);
        let output = lab.strata(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        places(&sarif(&String::from_utf8_lossy(&output.stdout)))
    };
    // A trigger's line is its FROM's.
    assert_eq!(
        gate("setuid own", "by", &[]),
        ["setuid /x by/Dockerfile:2-2", "setuid /y by/Dockerfile:3-3"]
    );
    // A layer of the base, whose own line is of another Dockerfile.
    lab.write("over/Dockerfile", "# over\nFROM by\nCOPY Dockerfile /\n");
    lab.ok(&["build", "-q", "-t", "over", "over"]);
    assert_eq!(
        gate("setuid", "over", &[]),
        [
            "setuid /x over/Dockerfile:2-2",
            "setuid /y over/Dockerfile:2-2"
        ]
    );
    // The store knows the lines of what it built, wherever it is read from; elsewhere nothing is known but what the user says.
    lab.ok(&["copy", "by", "oci-archive:by.tar"]);
    assert_eq!(
        gate("setuid", "oci-archive:by.tar", &[]),
        ["setuid /x by/Dockerfile:2-2", "setuid /y by/Dockerfile:3-3"]
    );
    std::fs::rename(&lab.root, lab.folder.with_file_name("other")).unwrap();
    assert_eq!(
        gate(
            "setuid",
            "oci-archive:by.tar",
            &["--dockerfile", "a b/Dockerfile"]
        ),
        [
            "setuid /x a%20b/Dockerfile:1-1",
            "setuid /y a%20b/Dockerfile:1-1"
        ]
    );
    let busybox = format!("docker://{}/busybox", lab.registry.host());
    lab.ok(&["copy", &busybox, "oci-archive:busy.tar"]);
    let found = gate("root-user", "oci-archive:busy.tar", &[]);
    assert!(found[0].starts_with("root-user - busy.tar"), "{found:?}");
    assert!(found[0].ends_with(":1-1"), "{found:?}");
    let refused = |more: &[&str]| {
        let mut arguments = vec!["layers", "--fail-on", "layers>0 own"];
        arguments.extend(more);
        arguments.push("oci-archive:busy.tar");
        let output = lab.strata(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&[]).contains("hint: --base IMAGE names the base"));
    let by = "oci-archive:by.tar";
    assert!(refused(&["--base", by]).contains("is not the base of"));
    let based = ["--fail-on", "layers>0 own", "--base", &busybox];
    let mut arguments = vec!["layers", "oci-archive:busy.tar"];
    arguments.extend(based);
    lab.ok(&arguments);
}

#[test]
fn names_in_an_image_are_harmless() {
    let lab = Lab::new();
    lab.write(
        "Dockerfile",
        "FROM @REG@/busybox\n\
         RUN cd / && f=\"$(printf 'a\\033[31m<\"&]]>\\001\\377{0}[x](y)\\nb')\" && touch \"$f\" && chmod 4755 \"$f\"\n",
    );
    lab.ok(&["build", "-q", "-t", "odd", "."]);
    let arguments = [
        "layers",
        "--fail-on",
        "setuid own",
        "--junit",
        "j.xml",
        "--sarif",
        "s.json",
        "odd",
    ];
    let output = lab.strata(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let escape = |bytes: &[u8]| bytes.contains(&0x1b) || bytes.contains(&1);
    assert!(
        !escape(&output.stdout) && !escape(&output.stderr),
        "{}",
        said(&output)
    );
    let failure = junit(&lab, "j.xml")[0][3]
        .as_str()
        .expect("a text")
        .to_owned();
    assert!(
        failure.contains("/a\\x1b[31m<\"&]]>\\x01\\xff{0}[x](y)\\nb is setuid"),
        "{failure}"
    );
    let run = sarif(&std::fs::read_to_string(lab.folder.join("s.json")).unwrap());
    let message = run["results"][0]["message"]["text"]
        .as_str()
        .expect("a text");
    assert!(message.contains("{{0}}\\[x\\](y)"), "{message}");
}

#[test]
fn rules_that_cannot_be_understood_are_shown() {
    let lab = Lab::new();
    lab.write(
        "bad.rules",
        "# ours\nsetuid except /usr/bin/su\nwasted>50\n",
    );
    lab.write("good.rules", "# ours\nlayers>100\nsetuid except /**\n");
    let failed = |rules: &[&str]| {
        let mut arguments = vec!["layers"];
        arguments.extend(rules);
        arguments.push("app");
        let output = lab.strata(&arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    insta::assert_snapshot!(failed(&["--fail-on", "@bad.rules"]).1, @r"
    error: bad.rules:3:8: a unit is missing
    --------------------
       1 |     # ours
       2 |     setuid except /usr/bin/su
       3 | >>> wasted>50
         |            ^^
    --------------------
    hint: write MB (1000000 bytes), MiB (1048576), or the like, or %
    ");
    for (rules, code, want) in [
        (
            &["--fail-on", "setuid", "--fail-on", "wastd>1MB"][..],
            2,
            "--fail-on:1:1: unknown rule \"wastd\" (did you mean wasted?)",
        ),
        (&["--fail-on", ""], 2, "there is no rule"),
        (&["--fail-on", "@none"], 1, "cannot read the rules in none"),
        (&["--junit", "x"], 2, "--fail-on"),
        (
            &["--fail-on", "setuid", "--junit", "-", "--sarif", "-"],
            2,
            "one thing only",
        ),
        (
            &["--fail-on", "setuid", "--junit", "-", "--format", "json"],
            2,
            "one thing only",
        ),
        // Read before the image is looked for.
        (&["--fail-on", "@good.rules"], 1, "no such image"),
    ] {
        let (got, text) = failed(rules);
        assert_eq!(got, Some(code), "{text}");
        assert!(text.contains(want), "{text}");
    }
}
