//! Whole plans, as text.

use proptest::prelude::*;

use crate::dockerfile;
use crate::oci::Platform;

use super::testing::{Fake, options, plan, printed};
use super::{NamedContext, Op, Options, Origin, lower};

const PATH: &str = r#"PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin""#;

#[track_caller]
fn check(text: &str, options: &Options, want: &str) {
    let got = printed(text, options).replace(PATH, "PATH");
    let want: Vec<&str> = want.trim().lines().map(str::trim).collect();
    let got: Vec<&str> = got.trim().lines().map(str::trim).collect();
    assert_eq!(got.join("\n"), want.join("\n"), "{text}");
}

fn two_platforms() -> Options {
    Options {
        platforms: vec![
            Platform::new("linux", "amd64", None),
            Platform::new("linux", "arm64", None),
        ],
        ..options()
    }
}

fn with_contexts(contexts: &[(&str, NamedContext)]) -> Options {
    Options {
        contexts: contexts
            .iter()
            .map(|(name, context)| ((*name).to_owned(), context.clone()))
            .collect(),
        ..options()
    }
}

#[test]
fn one_stage() {
    check(
        "FROM busybox\nARG A=1\nENV B=$A\nRUN make $B\nWORKDIR /w\nCOPY a b ./\nUSER app\nWORKDIR x\nCMD run",
        &options(),
        r##"
        #0 [1/5] FROM docker.io/library/busybox:latest@
          image of 1 layers
        #1 [2/5] RUN make 1 on #0
          run ["/bin/sh", "-c", "make $B"] in /
          env PATH A="1" B="1"
        #2 [3/5] WORKDIR /w on #1
          mkdir /w
        #3 [4/5] COPY a b ./ on #2
          copy from context "a" "b" to /w/
        #4 [5/5] WORKDIR x on #3
          mkdir /w/x as app
        linux/amd64 = #4
          "ARG A=1"
          "ENV B=1"
          "RUN |1 A=1 /bin/sh -c make $B # buildkit" #1
          "WORKDIR /w" #2
          "COPY a b ./ # buildkit" #3
          "USER app"
          "WORKDIR /w/x" #4
          "CMD [\"/bin/sh\" \"-c\" \"run\"]"
        JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
        "##,
    );
}

#[test]
fn stages_that_the_target_needs() {
    let text = "FROM busybox AS build\nRUN make\nFROM nosuch AS no\nRUN no\n\
                FROM scratch\nCOPY --from=BUILD /out /\nCOPY --from=0 --chown=1:2 --link /out /b\n";
    check(
        text,
        &options(),
        r##"
        #0 [build 1/2] FROM docker.io/library/busybox:latest@
          image of 1 layers
        #1 [build 2/2] RUN make on #0
          run ["/bin/sh", "-c", "make"] in /
          env PATH
        #2 [stage-2 1/2] COPY --from=BUILD /out /
          copy from #1 "/out" to /
        #3 [stage-2 2/2] COPY --from=0 --chown=1:2 --link /out /b on #2
          copy from #1 "/out" to /b owner 1:2 linked
        linux/amd64 = #3
          "COPY /out / # buildkit" #2
          "COPY --chown=1:2 /out /b # buildkit" #3
        "##,
    );
    let fake = Fake::new();
    let parsed = dockerfile::parse(text).unwrap();
    for target in ["build", "Build", "0"] {
        let options = Options {
            target: Some(target.to_owned()),
            ..options()
        };
        let graph = lower(&parsed.dockerfile, &options, &fake).unwrap();
        assert_eq!(graph.vertices.len(), 2, "{target}");
    }
    let asked = fake.asked.lock().unwrap();
    let busybox = "docker.io/library/busybox:latest linux/amd64";
    assert_eq!(*asked, [busybox; 3], "no image of another stage");
}

#[test]
fn run_mounts() {
    check(
        "FROM busybox\nWORKDIR /w\nARG ID=x\nRUN --mount=target=a,from=multi,source=/s \
         --mount=type=cache,target=c,sharing=locked,mode=0700,uid=1 --mount=type=tmpfs,target=/t,size=1m \
         --mount=type=secret,id=$ID --mount=type=secret,id=e,env=TOKEN --mount=type=ssh \
         --mount=type=ssh,id=k,required=true echo $TOKEN $ID",
        &options(),
        r##"
        #0 [stage-0 1/3] FROM docker.io/library/busybox:latest@
          image of 1 layers
        #1 [stage-0 2/3] WORKDIR /w on #0
          mkdir /w
        #2 FROM docker.io/library/multi:latest@
          image of 1 layers
        #3 [stage-0 3/3] RUN --mount=target=a,from=multi,source=/s --mount=type=cache,target=c,sharing=locked,mode=0700,uid=1 --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=x --mount=type=secret,id=e,env=TOKEN --mount=type=ssh --mount=type=ssh,id=k,required=true echo **** x on #1
          run ["/bin/sh", "-c", "echo $TOKEN $ID"] in /w
          env PATH ID="x"
          bind #2:/s at /w/a ro
          cache c at /w/c rw Locked 700 1:0
          tmpfs at /t of 1048576 bytes
          secret x at /run/secrets/x 400 0:0
          secret e as TOKEN
          ssh default at /run/buildkit/ssh_agent.0 600 0:0
          ssh k at /run/buildkit/ssh_agent.1 600 0:0 required
        linux/amd64 = #3
          "WORKDIR /w" #1
          "ARG ID=x"
          "RUN |1 ID=x /bin/sh -c echo $TOKEN $ID # buildkit" #3
        "##,
    );
}

#[test]
fn heredocs() {
    check(
        "FROM busybox\nENV A=1\nRUN <<EOF\n#!/bin/awk\nx $A\nEOF\nRUN <<-X cat\n\tbody\n\tX\n\
         COPY <<-a <<'b' /d/\n\tA $A\n\ta\nB $A\nb\n",
        &options(),
        r##"
        #0 [1/4] FROM docker.io/library/busybox:latest@
          image of 1 layers
        #1 [2/4] RUN <<EOF (#!/bin/awk...) on #0
          run ["/bin/sh", "-c", "/dev/pipes/EOF"] in /
          env PATH A="1"
          script EOF "#!/bin/awk\nx $A\n"
        #2 [3/4] RUN <<-X cat on #1
          run ["/bin/sh", "-c", "<<-X cat\n\tbody\nX"] in /
          env PATH A="1"
        #3 [4/4] COPY <<-a <<b /d/ on #2
          copy from context <<a "A 1\n" <<b "B $A\n" to /d/
        linux/amd64 = #3
          "ENV A=1"
          "RUN /bin/sh -c /dev/pipes/EOF # buildkit" #1
          "RUN /bin/sh -c <<-X cat\n\tbody\nX # buildkit" #2
          "COPY <<a <<b /d/ # buildkit" #3
        "##,
    );
}

#[test]
fn copies_and_adds() {
    check(
        "FROM scratch\nARG SUM=1234\nADD --checksum=$SUM https://x/r.git#main:d /r\nADD http://x/f?a=$SUM /f\n\
         ADD --unpack=false a.tar /\nCOPY --chmod=u+x --link --exclude=*.md --parents d /",
        &options(),
        r##"
        #0 [1/4] ADD --checksum=1234 https://x/r.git#main:d /r
          add from context git https://x/r.git#main:d 1234 to /r
        #1 [2/4] ADD http://x/f?a=1234 /f on #0
          add from context http http://x/f?a=1234 to /f
        #2 [3/4] ADD --unpack=false a.tar / on #1
          add from context "a.tar" to / unpack false
        #3 [4/4] COPY --chmod=u+x --link --exclude=*.md --parents d / on #2
          copy from context "d" to / mode u+x with parents without "*.md"
        linux/amd64 = #3
          "ARG SUM=1234"
          "ADD https://x/r.git#main:d /r # buildkit" #0
          "ADD http://x/f?a=1234 /f # buildkit" #1
          "ADD a.tar / # buildkit" #2
          "COPY --parents --chmod=u+x d / # buildkit" #3
        "##,
    );
}

#[test]
fn triggers_of_a_base_run_first() {
    check(
        "FROM busybox AS assets\nFROM onbuild AS child\nRUN own\nFROM child\nONBUILD RUN later",
        &options(),
        r##"
        #0 [assets 1/1] FROM docker.io/library/busybox:latest@
          image of 1 layers
        #1 [child 1/5] FROM docker.io/library/onbuild:latest@
          image of 1 layers
        #2 [child 2/5] ONBUILD RUN first on #1
          run ["/bin/sh", "-c", "first"] in /
          env PATH
        #3 [child 3/5] ONBUILD COPY --from=assets /a /b on #2
          copy from #0 "/a" to /b
        #4 [child 4/5] ONBUILD WORKDIR /onbuild on #3
          mkdir /onbuild
        #5 [child 5/5] RUN own on #4
          run ["/bin/sh", "-c", "own"] in /onbuild
          env PATH TRIGGERED="yes"
        linux/amd64 = #5
          "RUN /bin/sh -c first # buildkit" #2
          "COPY /a /b # buildkit" #3
          "ENV TRIGGERED=yes"
          "WORKDIR /onbuild" #4
          "RUN /bin/sh -c own # buildkit" #5
        "##,
    );
    let graph = plan(
        "FROM busybox AS a\nONBUILD RUN later\nFROM a AS b\nFROM b",
        &options(),
    );
    let graph = graph.unwrap();
    assert_eq!(graph.outputs[0].history.len(), 1, "once, in the child");
    let kept = plan(
        "FROM onbuild AS assets\nFROM onbuild\nONBUILD RUN x",
        &options(),
    );
    let error = kept.unwrap_err().to_string();
    assert!(
        error.contains("circular"),
        "a trigger that copies from its own stage: {error}"
    );
    let kept = plan(
        "FROM busybox AS assets\nFROM onbuild\nONBUILD RUN x",
        &options(),
    )
    .unwrap();
    assert_eq!(kept.outputs[0].config.config.on_build, ["RUN x"]);
}

#[test]
fn stages_of_the_build_platform_are_shared() {
    check(
        "FROM --platform=$BUILDPLATFORM multi AS build\nRUN same\nARG TARGETARCH\nRUN other\nFROM multi\nCOPY --from=build /x /",
        &Options {
            build_args: [("BUILDPLATFORM".to_owned(), "linux/amd64".to_owned())].into(),
            ..two_platforms()
        },
        r##"
        #0 [linux/amd64 build 1/3] FROM docker.io/library/multi:latest@
          image of 1 layers
        #1 [linux/amd64 build 2/3] RUN same on #0
          run ["/bin/sh", "-c", "same"] in /
          env PATH BASE_ARCH="amd64"
        #2 [linux/amd64 build 3/3] RUN other on #1
          run ["/bin/sh", "-c", "other"] in /
          env PATH BASE_ARCH="amd64" TARGETARCH="amd64"
        #3 [linux/amd64 stage-1 2/2] COPY --from=build /x / on #0
          copy from #2 "/x" to /
        #4 [linux/amd64->arm64 build 3/3] RUN other on #1
          run ["/bin/sh", "-c", "other"] in /
          env PATH BASE_ARCH="amd64" TARGETARCH="arm64"
        #5 [linux/arm64 stage-1 1/2] FROM docker.io/library/multi:latest@
          image of 1 layers
        #6 [linux/arm64 stage-1 2/2] COPY --from=build /x / on #5
          copy from #4 "/x" to /
        linux/amd64 = #3
          "COPY /x / # buildkit" #3
        linux/arm64 = #6
          "COPY /x / # buildkit" #6
        "##,
    );
}

#[test]
fn named_contexts_come_before_stages_and_images() {
    let contexts = [
        ("files", NamedContext::Local("f".into())),
        ("alpine", NamedContext::Image("busybox".parse().unwrap())),
        ("src", NamedContext::Git("https://x/r.git".to_owned())),
    ];
    check(
        "FROM busybox AS src\nRUN not\nFROM docker.io/library/alpine:latest\nCOPY --from=files x y\nCOPY --from=src x y",
        &with_contexts(&contexts),
        r##"
        #0 [context alpine] docker.io/library/busybox:latest@
          image of 1 layers
        #1 [stage-1 1/2] COPY --from=files x y on #0
          copy from context files "x" to /y
        #2 [stage-1 2/2] COPY --from=src x y on #1
          copy from context src "x" to /y
        linux/amd64 = #2
          "COPY x y # buildkit" #1
          "COPY x y # buildkit" #2
        "##,
    );
    check(
        "FROM files\nRUN x",
        &with_contexts(&contexts),
        r##"
        #0 [context files] FROM files
          copy from context files "/" to /
        #1 [1/1] RUN x on #0
          run ["/bin/sh", "-c", "x"] in /
          env PATH
        linux/amd64 = #1
          "FROM files" #0
          "RUN /bin/sh -c x # buildkit" #1
        "##,
    );
}

#[test]
fn no_cache_of_some_stages() {
    let options = Options {
        no_cache_filter: vec!["B".to_owned()],
        ..options()
    };
    let graph = plan("FROM busybox AS a\nRUN x\nFROM a AS b\nRUN x", &options).unwrap();
    let flags: Vec<bool> = graph.vertices.iter().map(|v| v.no_cache).collect();
    assert_eq!(flags, [false, false, true]);
}

#[test]
fn equal_steps_are_one_vertex() {
    let text = "FROM busybox AS a\nRUN x\nFROM busybox AS b\nRUN x\nFROM scratch\nCOPY --from=a /x /\nCOPY --from=b /x /";
    let graph = plan(text, &options()).unwrap();
    assert_eq!(graph.vertices.len(), 4, "{graph}");
    let last = &graph.vertices[3];
    let Op::Copy(copy) = &last.op else {
        panic!("{graph}")
    };
    assert_eq!(copy.origin, Origin::Vertex(Some(super::VertexId(1))));
}

#[test]
fn what_reaches_run() {
    let options = Options {
        build_args: [
            ("http_proxy", "p"),
            ("X", "cli"),
            ("BUILDKIT_SANDBOX_HOSTNAME", "box"),
            ("BUILDKIT_CACHE_MOUNT_NS", "ns"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into(),
        entitlements: vec!["network.host".to_owned()],
        ..options()
    };
    let text = "ARG G=g\nFROM no-path\nARG X=1\nENV X=env\nARG G\nRUN --network=host --mount=type=cache,target=/c true\n\
                ARG X\nRUN [\"a\", \"$X\"]";
    let graph = plan(text, &options).unwrap();
    let runs: Vec<_> = graph
        .vertices
        .iter()
        .filter_map(|v| match &v.op {
            Op::Run(run) => Some((run, v.created_by.as_str())),
            _ => None,
        })
        .collect();
    let get = |i: usize, name: &str| {
        let mut env = runs[i].0.env.iter();
        env.find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    };
    assert_eq!(get(0, "X"), Some("env"));
    assert_eq!(get(1, "X"), Some("cli"));
    assert_eq!(get(0, "G"), Some("g"));
    assert_eq!(get(0, "http_proxy"), None);
    assert_eq!(runs[0].0.proxies.len(), 2);
    assert_eq!(runs[0].0.hostname, "box");
    assert_eq!(
        runs[0].0.mounts[0].to_string(),
        "cache ns//c at /c rw Shared 755 0:0"
    );
    assert_eq!(runs[0].1, "RUN |2 X=env G=g /bin/sh -c true # buildkit");
    assert_eq!(runs[1].1, "RUN |2 X=cli G=g a $X # buildkit");
    let config = &graph.outputs[0].config.config;
    assert_eq!(config.env_value("X"), Some("env"));
    assert!(config.env_value("PATH").is_some());
}

#[test]
fn configurations() {
    let config = |text: &str| {
        let graph = plan(text, &options()).unwrap();
        serde_json::to_string(&graph.outputs[0].config.config).unwrap()
    };
    for (text, want) in [
        (
            "FROM scratch\nEXPOSE 80/UDP 8000-8001\nSTOPSIGNAL int\nVOLUME /v\nCMD []",
            r#"{"ExposedPorts":{"80/udp":{},"8000/tcp":{},"8001/tcp":{}},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Volumes":{"/v":{}},"WorkingDir":"/","StopSignal":"int","ArgsEscaped":true}"#,
        ),
        (
            "FROM config\nENTRYPOINT x",
            r#"{"User":"app","Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","BASE=1"],"Entrypoint":["/bin/sh","-ec","x"],"WorkingDir":"/srv/home","Labels":{"base":"yes"},"Shell":["/bin/sh","-ec"]}"#,
        ),
        (
            "FROM busybox\nCMD [\"a\"]\nENTRYPOINT [\"b\"]\nWORKDIR /x//y/\nENV abc=hello\nENV abc=bye def=$abc",
            r#"{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","abc=bye","def=hello"],"Entrypoint":["b"],"Cmd":["a"],"WorkingDir":"/x//y/","ArgsEscaped":true}"#,
        ),
    ] {
        assert_eq!(config(text), want, "{text}");
    }
    // The label of the command line is the last word, and the base without layers is no vertex.
    let options = Options {
        labels: [("a".to_owned(), "cli".to_owned())].into(),
        ..options()
    };
    let graph = plan("FROM empty\nLABEL a=1 b=2", &options).unwrap();
    assert_eq!(graph.outputs[0].vertex, None);
    assert_eq!(graph.outputs[0].config.config.labels["a"], "cli");
}

#[test]
fn the_configuration_says_the_platform_asked_for() {
    let arm = Platform::new("linux", "arm64", None);
    let options = Options {
        platforms: vec![arm.clone()],
        ..options()
    };
    let graph = plan("FROM busybox", &options).unwrap();
    assert_eq!(graph.outputs[0].config.platform(), arm);
    assert_eq!(graph.warnings[0].rule, Some("InvalidBaseImagePlatform"));
}

#[test]
fn errors() {
    for (text, want) in [
        (
            "FROM busybox\nRUN --network=host x",
            "network.host is not allowed",
        ),
        (
            "FROM busybox\nRUN --security=insecure x",
            "security.insecure is not allowed",
        ),
        ("FROM busybox\nCOPY --from=7 a b", "invalid stage index 7"),
        ("FROM $X", "base name ($X) should not be blank"),
        (
            "FROM --platform=$Y busybox",
            "empty platform value from expression $Y",
        ),
        (
            "FROM --platform=a/b/c/d busybox",
            "failed to parse platform a/b/c/d: invalid platform \"a/b/c/d\": expected OS[/ARCH[/VARIANT]], for example linux/amd64 or linux/arm/v7",
        ),
        (
            "FROM busybox\nRUN --mount=type=bind,target=/ x",
            "invalid mount target \"/\"",
        ),
        (
            "FROM busybox\nARG M=9\nRUN --mount=type=cache,target=/c,mode=$M x",
            "invalid value 9 for mode",
        ),
        (
            "FROM busybox\nADD --checksum=abc http://x/y /",
            "invalid checksum \"abc\" of http://x/y: invalid digest \"abc\": expected sha256:<64 hexadecimal digits>",
        ),
        (
            "FROM busybox\nADD --checksum=abc y /",
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "FROM busybox\nADD --checksum=abc http://x/y http://x/y /",
            "checksum can't be specified for multiple sources",
        ),
        (
            "FROM busybox\nCOPY http://x/y /",
            "source can't be a URL for COPY: http://x/y",
        ),
        (
            "FROM busybox\nCOPY git@x:y /",
            "source can't be a git ref for COPY: git@x:y",
        ),
        (
            "FROM busybox\nCOPY --chmod=u+rr+q a /",
            "invalid chmod parameter: 'u+rr+q'. it should be octal string and between 0 and 07777, or symbolic like u=rwX,go=rX",
        ),
        (
            "FROM busybox\nVOLUME $X",
            "VOLUME specified can not be an empty string",
        ),
        (
            "FROM busybox\nWORKDIR $X",
            "WORKDIR specified can not be an empty string",
        ),
        (
            "FROM busybox\nEXPOSE x",
            "invalid EXPOSE \"x\": invalid containerPort: x",
        ),
        (
            "FROM busybox\nEXPOSE 0-65535 0-65535/udp 0-65535/sctp 1",
            "invalid EXPOSE \"1\": too many ports: there are not more than 196608",
        ),
        ("FROM busybox\nSTOPSIGNAL SIGNO", "invalid signal: SIGNO"),
        (
            "FROM busybox\nENV A=\"${B:?b is missing}\"",
            "failed to process \"\\\"${B:?b is missing}\\\"\": B: b is missing",
        ),
        (
            "FROM busybox\nRUN --mount=from=later,target=/x y\nFROM busybox AS later\nFROM 0",
            "docker.io/library/0:latest: not found",
        ),
        (
            "FROM busybox AS a\nRUN --mount=from=later,target=/x y\nFROM busybox AS later\nFROM a",
            "cannot mount from stage \"later\" to \"/x\", stage needs to be defined before current command",
        ),
        (
            "FROM busybox AS a\nCOPY --from=b x y\nFROM busybox AS b\nFROM a",
            "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
        ),
        (
            "FROM busybox AS a\nCOPY --from=b x y\nFROM a AS b\nFROM busybox",
            "circular dependency detected on stage: a",
        ),
        (
            "FROM busybox\nCOPY --from=0 x y",
            "circular dependency detected on stage: stage-0",
        ),
        ("FROM nosuch", "docker.io/library/nosuch:latest: not found"),
        ("FROM onbuild", "docker.io/library/assets:latest: not found"),
    ] {
        assert_eq!(printed(text, &options()), want, "{text:?}");
    }
    let target = Options {
        target: Some("onee".to_owned()),
        ..options()
    };
    assert_eq!(
        printed("FROM busybox AS one\nFROM busybox AS two", &target),
        "target stage \"onee\" could not be found (did you mean one?)"
    );
}

#[test]
fn a_place_is_blamed() {
    let text = "FROM busybox\nEXPOSE 80 x";
    let error = plan(text, &options()).unwrap_err();
    let span = error.diagnostic().unwrap().span;
    assert_eq!(&text[span.start as usize..span.end as usize], "x");
    let meant = plan("FROM busybox AS build\nCOPY --from=biuld a b", &options()).unwrap_err();
    assert_eq!(meant.hint().as_deref(), Some("did you mean build?"));
}

#[test]
fn warnings() {
    for (text, want) in [
        (
            "FROM busybox\nENV FOO=1\nRUN x\nCOPY $FO /",
            "UndefinedVar: Usage of undefined variable '$FO' (did you mean $FOO?)",
        ),
        (
            "ARG VERSION=1\nFROM busybox:${VERSIN}1",
            "UndefinedArgInFrom: FROM argument 'VERSIN' is not declared (did you mean VERSION?)",
        ),
        (
            "ARG TAG\nFROM busybox:${TAG}",
            "InvalidDefaultArgInFrom: Default value for ARG busybox:${TAG} results in empty or invalid base image name",
        ),
        (
            "FROM --platform=$TARGETPLATFORM busybox",
            "RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        (
            "FROM --platform=linux/amd64 busybox",
            "FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\"",
        ),
        (
            "FROM busybox\nWORKDIR a\nWORKDIR b",
            "WorkdirRelativePath: Relative workdir \"a\" can have unexpected results if the base image changes",
        ),
        ("FROM busybox\nARG X\nCOPY a$X ${Y:-b} /", ""),
        ("FROM --platform=linux/amd64 busybox AS for-amd64", ""),
    ] {
        let options = Options {
            build_args: [("TAG".to_owned(), "1".to_owned())].into(),
            ..options()
        };
        let graph = plan(text, &options).unwrap();
        let got: Vec<String> = graph
            .warnings
            .iter()
            .map(|w| format!("{}: {}", w.rule.unwrap(), w.message))
            .collect();
        assert_eq!(got.join("\n"), want, "{text:?}");
    }
    let twice = plan("FROM busybox\nCOPY $NO /", &two_platforms()).unwrap();
    let undefined = twice
        .warnings
        .iter()
        .filter(|w| w.rule == Some("UndefinedVar"));
    assert_eq!(undefined.count(), 1, "once for all platforms");
}

/// A vertex comes after everything it reads.
fn is_topological(graph: &super::Graph) -> bool {
    (0..graph.vertices.len()).all(|i| {
        let inputs = graph.inputs(super::VertexId(i));
        inputs.iter().all(|input| input.0 < i)
    })
}

fn fragment() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[a-c]",
        "\\$[A-C]",
        "\\$\\{[A-C](:?[-+?#%/][a-c/$]{0,3})?\\}",
        "[ -~]{0,8}",
        Just("/".to_owned()),
        Just("..".to_owned()),
        Just("http://x/r.git#m:d".to_owned()),
        Just("é\u{1F600}".to_owned()),
    ];
    let stage = prop_oneof![
        Just("busybox"),
        Just("scratch"),
        Just("onbuild"),
        Just("empty"),
        Just("a"),
        Just("b"),
        Just("0"),
        Just("1"),
        Just("$A"),
        Just("files"),
    ];
    let keyword = prop_oneof![
        Just("RUN"),
        Just("COPY a"),
        Just("ADD"),
        Just("ENV A="),
        Just("ARG B="),
        Just("ARG C"),
        Just("LABEL x="),
        Just("WORKDIR"),
        Just("USER"),
        Just("EXPOSE"),
        Just("VOLUME"),
        Just("STOPSIGNAL"),
        Just("CMD"),
        Just("ENTRYPOINT"),
        Just("ONBUILD COPY --from=a x"),
        Just("ONBUILD RUN"),
        Just("SHELL"),
        Just("HEALTHCHECK CMD"),
        Just("RUN --mount=type=cache,target="),
        Just("RUN --mount=type=secret,id=$A,target="),
        Just("COPY --chmod=$A --chown=$B x"),
        Just("COPY <<E"),
    ];
    prop_oneof![
        3 => (keyword, prop::collection::vec(word, 0..3)).prop_map(|(k, w)| match k.strip_suffix('=') {
            Some(_) => format!("{k}{}", w.join("")),
            None => format!("{k} {}", w.join(" ")),
        }),
        1 => (stage.clone(), prop_oneof![Just(""), Just(" AS a"), Just(" AS b"), Just(" AS c")])
            .prop_map(|(s, name)| format!("FROM {s}{name}")),
        1 => stage.clone().prop_map(|s| format!("COPY --from={s} x /y")),
        1 => stage.prop_map(|s| format!("RUN --mount=from={s},target=/m x")),
        1 => Just("E".to_owned()),
    ]
}

proptest! {
    #[test]
    fn plans_of_anything_that_parses(
        lines in prop::collection::vec(fragment(), 0..12),
        global in fragment(),
        target in prop::option::of("[abc01]"),
    ) {
        let text = format!("ARG A={}\nFROM busybox AS a\n{}\n", global.replace(' ', ""), lines.join("\n"));
        if let Ok(parsed) = dockerfile::parse(&text) {
            let files = [("files", NamedContext::Local("f".into()))];
            let options = Options { target, platforms: two_platforms().platforms, ..with_contexts(&files) };
            match lower(&parsed.dockerfile, &options, &Fake::new()) {
                Ok(graph) => prop_assert!(is_topological(&graph), "{}", graph),
                Err(error) => {
                    let span = error.diagnostic().map(|d| d.span).unwrap_or_default();
                    prop_assert!(text.get(span.start as usize..span.end as usize).is_some());
                }
            }
        }
    }
}
