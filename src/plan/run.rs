//! RUN.

use crate::dockerfile::Statement;
use crate::dockerfile::ast::{CommandLine, Heredoc, MountKind, Network, Run, Security};

use super::error::PlanError;
use super::graph::{Op, RunOp, Spans};
use super::instruct::shell_command;
use super::lower::{Current, Lowering};
use super::{args, names, paths};

/// The host name of a RUN, unless `BUILDKIT_SANDBOX_HOSTNAME` says another: it can be in results, so it never is the host's.
const HOSTNAME: &str = "buildkitsandbox";

/// Where scripts of here-documents are seen.
const SCRIPTS: &str = "/dev/pipes/";

impl Lowering<'_, '_> {
    /// One RUN.
    pub(super) fn run(
        &mut self,
        current: &mut Current,
        statement: &Statement,
        run: &Run,
    ) -> Result<(), PlanError> {
        let span = current.span(statement.keyword.span);
        self.look_at_script(current, run);
        let mut scripts = Vec::new();
        let args = match &run.command {
            CommandLine::Exec(args) => args.clone(),
            CommandLine::Shell(text) => match &run.heredocs[..] {
                [] => shell_command(current, text.text.clone()),
                [doc] if text.text.trim() == doc.word.text => {
                    let text = if doc.content.starts_with("#!") {
                        if matches!(doc.name.as_str(), "" | "." | "..") || doc.name.contains('/') {
                            return Err(PlanError::ScriptName {
                                name: doc.name.clone(),
                                span: current.span(doc.word.span),
                            });
                        }
                        scripts.push((doc.name.clone(), doc.content.clone()));
                        format!("{SCRIPTS}{}", doc.name)
                    } else {
                        doc.content.clone()
                    };
                    shell_command(current, text)
                }
                docs => shell_command(current, reassembled(&text.text, docs)),
            },
        };
        let mounts = self.mounts(current, statement, run)?;
        let network = match run.network {
            None | Some(Network::Default) => self.options.network.unwrap_or(Network::Default),
            Some(network) => network,
        };
        for (wanted, entitlement) in [
            (network == Network::Host, "network.host"),
            (run.security == Security::Insecure, "security.insecure"),
        ] {
            if wanted && !self.options.entitlements.iter().any(|e| e == entitlement) {
                return Err(PlanError::Entitlement { entitlement, span });
            }
        }
        // Whatever was declared so far is in the environment.
        for name in current.state.scope.declared() {
            self.weave.graph().outline.use_name(name);
        }
        let name = self.run_name(current, statement, run);
        let scope = &current.state.scope;
        let arguments = scope.effective_arguments();
        let mut created_by = String::from("RUN ");
        if !arguments.is_empty() {
            created_by = format!("RUN |{} {} ", arguments.len(), arguments.join(" "));
        }
        created_by = format!("{created_by}{} # buildkit", args.join(" "));
        let config = &current.state.config.config;
        let build_args = &self.options.build_args;
        let op = RunOp {
            args,
            env: scope.variables().to_vec(),
            proxies: args::proxies(build_args),
            cwd: paths::clean(&config.working_dir),
            user: config.user.clone(),
            mounts,
            scripts,
            network,
            security: run.security,
            hostname: build_args
                .get("BUILDKIT_SANDBOX_HOSTNAME")
                .filter(|name| !name.is_empty())
                .map_or(HOSTNAME, String::as_str)
                .to_owned(),
            add_hosts: self.options.add_hosts.clone(),
            ulimits: self.options.ulimits.clone(),
            shm_size_bytes: self.options.shm_size_bytes,
        };
        let spans = Spans {
            mounts: run
                .mounts
                .iter()
                .map(|m| current.span(m.word.span))
                .collect(),
            ..Spans::default()
        };
        self.push(current, statement, Op::Run(op), name, created_by, spans);
        Ok(())
    }

    /// Variables with a value are shown by it, secrets never.
    fn run_name(&self, current: &mut Current, statement: &Statement, run: &Run) -> String {
        let secrets: Vec<&str> = run
            .mounts
            .iter()
            .filter(|m| m.kind == MountKind::Secret)
            .filter_map(|m| m.env.as_ref().map(|e| e.text.as_str()))
            .collect();
        let scope = &current.state.scope;
        let mut text = names::shown(
            statement.original.trim(),
            self.escape,
            &|name| match secrets.contains(&name) {
                true => Some("****".to_owned()),
                false => scope.get(name).map(str::to_owned),
            },
        );
        if let [doc] = &run.heredocs[..]
            && matches!(&run.command, CommandLine::Shell(t) if t.text.trim() == doc.word.text)
        {
            let mut lines = doc.content.trim().lines();
            let first = lines.next().unwrap_or_default();
            let more = if lines.next().is_some() { "..." } else { "" };
            text = format!("{text} ({first}{more})");
        }
        let is_trigger = current.trigger.is_some();
        current.namer.step(&text, is_trigger, scope)
    }
}

/// The text as the shell is to read it: the bodies after the line, as written, since the shell strips tabs itself.
fn reassembled(line: &str, docs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for doc in docs {
        text.push('\n');
        text.push_str(&doc.raw);
        text.push_str(&doc.name);
    }
    text
}
