//! Single instructions: those that only change the configuration are done here, the others in files of their own.

use crate::dockerfile::ast::{ArgDef, CommandLine, Healthcheck, KeyValues};
use crate::dockerfile::{Instruction, Span, Statement, Word, lint};
use crate::oci;

use super::error::PlanError;
use super::graph::{Op, Spans, Vertex, VertexId, WorkdirOp};
use super::lower::{Current, Lowering};
use super::scope::Scope;
use super::{gotext, paths, ports, signals};

/// The shell of shell forms, unless the base or SHELL says another.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

// The declared arguments, each once.
fn arguments(scope: &Scope) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in scope.declared() {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

impl Lowering<'_, '_> {
    /// Does what one instruction says.
    pub(super) fn instruction(
        &mut self,
        current: &mut Current,
        statement: &Statement,
    ) -> Result<(), PlanError> {
        current.here = current.span(statement.keyword.span);
        self.look_at_forms(current, statement);
        match &statement.instruction {
            Instruction::Add(transfer) => self.transfer(current, statement, transfer, true),
            Instruction::Copy(transfer) => self.transfer(current, statement, transfer, false),
            Instruction::Run(run) => self.run(current, statement, run),
            Instruction::Workdir(word) => self.workdir(current, statement, word),
            Instruction::Arg(defs) => self.arg(current, statement, defs),
            Instruction::Env(pairs) => self.env(current, pairs),
            Instruction::Label(pairs) => self.label(current, pairs),
            Instruction::Expose(words) => self.expose(current, words),
            Instruction::Volume(words) => self.volume(current, words),
            Instruction::User(word) => self.user(current, word),
            Instruction::Stopsignal(word) => self.stopsignal(current, word),
            Instruction::Cmd(command) => {
                self.lint_command(current, statement, command, "CMD", |c| &mut c.cmd);
                let args = in_shell(current, command);
                current.record(format!("CMD {}", gotext::quoted_list(&args)), None);
                let config = &mut current.state.config.config;
                config.cmd = (!args.is_empty()).then_some(args);
                config.args_escaped = true;
                Ok(())
            }
            Instruction::Entrypoint(command) => {
                self.lint_command(current, statement, command, "ENTRYPOINT", |c| {
                    &mut c.entrypoint
                });
                let args = in_shell(current, command);
                current.record(format!("ENTRYPOINT {}", gotext::quoted_list(&args)), None);
                let config = &mut current.state.config.config;
                config.entrypoint = (!args.is_empty()).then_some(args);
                // A base's arguments are for the base's entrypoint.
                if current.cmd.is_none() {
                    config.cmd = None;
                }
                Ok(())
            }
            Instruction::Healthcheck(check) => {
                self.lint_once(current, statement, "HEALTHCHECK", |c| &mut c.healthcheck);
                let check = health(check);
                current.record(format!("HEALTHCHECK {}", gotext::healthcheck(&check)), None);
                current.state.config.config.healthcheck = Some(check);
                Ok(())
            }
            Instruction::Shell(words) => {
                current.record(format!("SHELL {}", gotext::plain_list(words)), None);
                current.state.config.config.shell.clone_from(words);
                Ok(())
            }
            Instruction::Maintainer(word) => {
                current.record(format!("MAINTAINER {}", word.text), None);
                current.state.config.author = Some(word.text.clone());
                Ok(())
            }
            Instruction::Onbuild(word) => {
                let triggers = &mut current.state.config.config.on_build;
                triggers.push(word.text.clone());
                Ok(())
            }
        }
    }

    fn lint_command(
        &mut self,
        current: &mut Current,
        statement: &Statement,
        command: &CommandLine,
        name: &str,
        earlier: fn(&mut Current) -> &mut Option<Span>,
    ) {
        self.lint_once(current, statement, name, earlier);
        let shell_is_default = current.state.config.config.shell.is_empty();
        if matches!(command, CommandLine::Shell(_)) && shell_is_default {
            let span = current.span(statement.keyword.span);
            self.weave.warn(lint::json_args_recommended(span, name));
        }
    }

    /// Warns of an earlier instruction that this one makes useless.
    fn lint_once(
        &mut self,
        current: &mut Current,
        statement: &Statement,
        name: &str,
        earlier: fn(&mut Current) -> &mut Option<Span>,
    ) {
        let span = current.span(statement.keyword.span);
        if let Some(ignored) = earlier(current).replace(span) {
            self.weave
                .warn(lint::multiple_instructions_disallowed(ignored, name));
        }
    }

    fn lint_secret(&mut self, current: &Current, name: &Word, instruction: &str) {
        if lint::is_secret_name(&name.text) {
            let span = current.span(name.span);
            self.weave.warn(lint::secrets_used_in_arg_or_env(
                span,
                instruction,
                &name.text,
            ));
        }
    }

    /// Adds a vertex on top of the stage.
    pub(super) fn push(
        &mut self,
        current: &mut Current,
        statement: &Statement,
        op: Op,
        name: String,
        created_by: String,
        spans: Spans,
    ) -> VertexId {
        let vertex = self.weave.add(Vertex {
            op,
            base: current.state.vertex,
            name,
            stage: current.label.clone(),
            lines: current.lines(statement),
            spans: Spans {
                instruction: current.here,
                ..spans
            },
            created_by: created_by.clone(),
            platform: current.state.platform.clone(),
            no_cache: current.no_cache,
            arguments: arguments(&current.state.scope),
        });
        current.state.vertex = Some(vertex);
        current.record(created_by, Some(vertex));
        vertex
    }

    /// The name of a step whose text is expanded as its words are.
    pub(super) fn step_name(&self, current: &mut Current, statement: &Statement) -> String {
        let scope = &current.state.scope;
        let text = match scope.expand(statement.original.trim(), self.escape) {
            Ok((text, _)) => text,
            Err(_) => statement.original.trim().to_owned(),
        };
        let is_trigger = current.trigger.is_some();
        current.namer.step(&text, is_trigger, scope)
    }

    fn workdir(
        &mut self,
        current: &mut Current,
        statement: &Statement,
        word: &Word,
    ) -> Result<(), PlanError> {
        let path = self.expand(current, word)?;
        if path.is_empty() {
            return Err(PlanError::BlankWorkdir {
                span: current.span(word.span),
            });
        }
        if !current.state.workdir_set && !path.starts_with('/') {
            self.weave
                .warn(lint::workdir_relative_path(current.span(word.span), &path));
        }
        current.state.workdir_set = true;
        let config = &mut current.state.config.config;
        config.working_dir = paths::workdir(&config.working_dir, &path);
        let created_by = format!("WORKDIR {}", config.working_dir);
        let op = WorkdirOp {
            path: paths::clean(&config.working_dir),
            user: config.user.clone(),
        };
        // As it is written: `/..` is a step, and has its layer.
        if config.working_dir == "/" {
            current.record(created_by, None);
            return Ok(());
        }
        let name = self.step_name(current, statement);
        let spans = Spans {
            target: Some(current.span(word.span)),
            ..Spans::default()
        };
        self.push(current, statement, Op::Workdir(op), name, created_by, spans);
        Ok(())
    }

    fn arg(
        &mut self,
        current: &mut Current,
        statement: &Statement,
        defs: &[ArgDef],
    ) -> Result<(), PlanError> {
        let mut shown = String::from("ARG");
        for def in defs {
            self.lint_secret(current, &def.name, "ARG");
            let name = &def.name.text;
            let value = match (self.options.build_args.get(name), &def.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(current, default)?),
                (None, None) => self.globals.get(name).map(str::to_owned),
            };
            shown.push(' ');
            shown.push_str(name);
            if let Some(value) = &value {
                shown.push('=');
                shown.push_str(value);
            }
            let span = current.span(def.name.span);
            let outline = &mut self.weave.graph().outline;
            outline.declare(statement, &def.name, value.as_deref(), span);
            current.state.scope.declare(name, value.as_deref());
        }
        current.record(shown, None);
        Ok(())
    }

    fn env(&mut self, current: &mut Current, pairs: &KeyValues) -> Result<(), PlanError> {
        for (name, _) in &pairs.pairs {
            self.lint_secret(current, name, "ENV");
        }
        let pairs = self.pairs(current, pairs)?;
        let mut shown = String::from("ENV");
        for (name, value) in pairs {
            shown = format!("{shown} {name}={value}");
            current.state.scope.set(&name, &value);
            current.state.config.config.set_env(&name, &value);
        }
        current.record(shown, None);
        Ok(())
    }

    fn label(&mut self, current: &mut Current, pairs: &KeyValues) -> Result<(), PlanError> {
        let pairs = self.pairs(current, pairs)?;
        let mut shown = String::from("LABEL");
        for (name, value) in pairs {
            shown = format!("{shown} {name}={value}");
            current.state.config.config.labels.insert(name, value);
        }
        current.record(shown, None);
        Ok(())
    }

    /// Names and values, all as they are before the instruction.
    fn pairs(
        &mut self,
        current: &Current,
        pairs: &KeyValues,
    ) -> Result<Vec<(String, String)>, PlanError> {
        let expand = |(name, value): &(Word, Word)| {
            Ok((self.expand(current, name)?, self.expand(current, value)?))
        };
        pairs.pairs.iter().map(expand).collect()
    }

    fn expose(&mut self, current: &mut Current, words: &[Word]) -> Result<(), PlanError> {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.text.cmp(&b.text));
        let mut all = Vec::new();
        for word in sorted {
            let span = current.span(word.span);
            let (list, uses) = current
                .state
                .scope
                .expand_list(&word.text, self.escape)
                .map_err(|source| current.word_error(word, source))?;
            self.lint_undefined(current, &uses, word.span);
            for port in list {
                if ports::protocol_has_capitals(&port) {
                    self.weave.warn(lint::expose_proto_casing(span, &port));
                }
                if ports::has_host_part(&port) {
                    self.weave.warn(lint::expose_invalid_format(span, &port));
                }
                let parsed = ports::parse(&port).and_then(|ports| {
                    match all.len() + ports.len() > ports::MAX_PORTS {
                        true => Err(ports::PortError::TooMany),
                        false => Ok(ports),
                    }
                });
                all.extend(parsed.map_err(|source| PlanError::Port {
                    word: port,
                    span,
                    source,
                })?);
            }
        }
        current.record(format!("EXPOSE {}", gotext::plain_list(&all)), None);
        let exposed = &mut current.state.config.config.exposed_ports;
        exposed.extend(all.into_iter().map(|port| (port, oci::Empty {})));
        Ok(())
    }

    fn volume(&mut self, current: &mut Current, words: &[Word]) -> Result<(), PlanError> {
        let mut paths = Vec::with_capacity(words.len());
        for word in words {
            let path = self.expand(current, word)?;
            if path.is_empty() {
                return Err(PlanError::BlankVolume {
                    span: current.span(word.span),
                });
            }
            paths.push(path);
        }
        current.record(format!("VOLUME {}", gotext::plain_list(&paths)), None);
        let volumes = &mut current.state.config.config.volumes;
        volumes.extend(paths.into_iter().map(|path| (path, oci::Empty {})));
        Ok(())
    }

    fn user(&mut self, current: &mut Current, word: &Word) -> Result<(), PlanError> {
        let user = self.expand(current, word)?;
        current.record(format!("USER {user}"), None);
        current.state.config.config.user = user;
        Ok(())
    }

    fn stopsignal(&mut self, current: &mut Current, word: &Word) -> Result<(), PlanError> {
        let signal = self.expand(current, word)?;
        if !signals::is_signal(&signal) {
            return Err(PlanError::Signal {
                signal,
                span: current.span(word.span),
            });
        }
        current.record(format!("STOPSIGNAL {signal}"), None);
        current.state.config.config.stop_signal = signal;
        Ok(())
    }
}

/// A command as it is run: the shell form is one word for the shell in force.
fn in_shell(current: &Current, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(args) => args.clone(),
        CommandLine::Shell(text) => shell_command(current, text.text.clone()),
    }
}

/// The shell in force and a text for it.
pub(super) fn shell_command(current: &Current, text: String) -> Vec<String> {
    let shell = &current.state.config.config.shell;
    let mut args = match shell.is_empty() {
        true => DEFAULT_SHELL.map(str::to_owned).to_vec(),
        false => shell.clone(),
    };
    args.push(text);
    args
}

fn health(check: &Healthcheck) -> oci::Healthcheck {
    match check {
        Healthcheck::None => oci::Healthcheck {
            test: vec!["NONE".to_owned()],
            ..Default::default()
        },
        Healthcheck::Check {
            command,
            interval_ns,
            timeout_ns,
            start_period_ns,
            start_interval_ns,
            retries,
        } => {
            // The shell is the runtime's choice, so it is not written here.
            let test = match command {
                CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.text.clone()],
                CommandLine::Exec(args) => {
                    let mut test = vec!["CMD".to_owned()];
                    test.extend_from_slice(args);
                    test
                }
            };
            oci::Healthcheck {
                test,
                interval: *interval_ns,
                timeout: *timeout_ns,
                start_period: *start_period_ns,
                start_interval: *start_interval_ns,
                retries: *retries,
            }
        }
    }
}
