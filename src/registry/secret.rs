//! Words that no message may hold.

/// A password or a token. Has no `Debug` and no `Display`: what holds one cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `words` from messages.
    pub fn new(words: String) -> Secret {
        Secret(words)
    }

    /// The words themselves, for the one place that sends or stores them.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// What proves to a registry who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A name and a password (or a personal token in its place).
    Password {
        /// Who.
        user: String,
        /// The proof.
        password: Secret,
    },
    /// An OAuth2 refresh token, which the token server exchanges for access tokens.
    IdentityToken(Secret),
}
