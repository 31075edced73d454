//! Many steps, one on the other: a step sees what all below it left, however many directories it stands on.

use std::fmt::Write as _;

use crate::lab::{Lab, labs_with_one_id};

const STEPS: usize = 60;

fn check(lab: &Lab) {
    let mut dockerfile = String::from("FROM @REG@/busybox\nWORKDIR /w\n");
    for at in 1..=STEPS {
        // A new file, one with more in it, one in a folder that there is, one less, a link that leads elsewhere now.
        let gone = at.saturating_sub(3);
        writeln!(
            dockerfile,
            "RUN echo {at} >f{at}; echo {at} >>log; mkdir -p d; echo {at} >d/{at}; rm -f f{gone}; ln -sf f{at} last"
        )
        .expect("a String takes all");
    }
    dockerfile.push_str(
        "RUN cat f* >found; wc -l <log >>found; ls d | wc -l >>found; cat last >>found; find . -type f -links +1 >>found\n\
         RUN grep ' / / ' /proc/self/mountinfo | tr , '\\n' | grep -c lowerdir >lowers\n",
    );
    lab.write(
        "c/Dockerfile",
        &dockerfile.replace("@REG@", &lab.registry.host()),
    );
    lab.ok(&["build", "-t", "steps", "-o", "type=local,dest=out", "c"]);
    let read = |name: &str| {
        let path = lab.folder.join("out/w").join(name);
        std::fs::read_to_string(&path).expect("the build made it")
    };
    let [first, second, third] = [STEPS - 2, STEPS - 1, STEPS];
    assert_eq!(
        read("found"),
        format!("{first}\n{second}\n{third}\n{STEPS}\n{STEPS}\n{third}\n")
    );
    let lowers: usize = read("lowers").trim().parse().expect("a number");
    // The base, WORKDIR, three merged, and what is left of sixteen.
    assert!((4..24).contains(&lowers), "{lowers}");
    lab.assert_sound();
}

#[test]
fn see_what_all_below_left() {
    labs_with_one_id().iter().for_each(check);
}
