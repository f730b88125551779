//! The only code that knows Redis: the connection, the scripts, and what their answers mean.
//!
//! Each atomic move is a Lua script in `store/`, named like the method that calls it, and costs one round
//! trip. A refusal ("the queue is full") is a value; an `Err` means that Redis could not be asked. What may be done with
//! sessions stands in `sessions`, with their clients in `clients`, with what runs them in `fleet`.

mod answers;
mod clients;
mod connection;
pub mod events;
pub mod failure;
mod fleet;
pub mod reply;
mod sessions;

pub use answers::*;

use fred::bytes_utils::Str;
use fred::prelude::{ClientLike, Error as RedisError, KeysInterface};
use fred::types::scripts::Script;
use fred::types::{ClusterHash, CustomCommand, SetOptions, Value as RedisValue};
use fred::util::redis_keyslot;
use serde_json::{Value, json};

use connection::Connection;
use failure::Failure;
use reply::Reply;

/// Redis could not be asked, or answered what no script of ours answers.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("redis is not available: {0}")]
    Unavailable(Failure, #[source] RedisError),
    #[error("REDIS_ENDPOINT cannot be used")]
    Endpoint(#[source] RedisError),
    #[error("redis answered what no script of ours answers: {0}")]
    Unexpected(String),
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        StoreError::Unavailable(Failure::of(&error), error)
    }
}

macro_rules! scripts {
    ($($flags:literal: $($name:ident),* ;)*) => {
        /// Every script, ready to be called by its digest.
        #[derive(Clone)]
        struct Scripts { $($($name: Script),*),* }

        impl Scripts {
            fn new() -> Self {
                Self {
                    $($($name: Script::from_lua(concat!(
                        $flags,
                        "\n",
                        include_str!("store/shared.lua"),
                        include_str!(concat!("store/", stringify!($name), ".lua")),
                    ))),*),*
                }
            }
        }
    };
}

// With such a first line Redis looks before a script runs, and not at its first write: a server that may not be
// written to refuses it also where it only reads, for what a former primary knows may be old. When its memory is full,
// new sessions are refused, and whatever goes on with what is there is not. Of `route` only the keeping of messages
// is, so there the first write decides.
scripts!(
    "#!lua":
    create;
    "":
    route;
    "#!lua flags=allow-oom":
    ping,
    get,
    list,
    usage,
    claim,
    ready,
    connect,
    view,
    reach,
    disconnect,
    enter,
    deliver,
    delivered,
    closing,
    end,
    expire,
    purge,
    snapshot,
    record,
    may_list,
    expect,
    join,
    reserve,
    give_back,
    drain,
    lose_container,
    beat_server,
    lose_server;
);

/// A handle on Redis. Cheap to clone; all clones share one multiplexed connection.
#[derive(Clone)]
pub struct Store {
    connection: Connection,
    scripts: Scripts,
    prefix: String,
    /// The one key that every script is given, and its slot on a cluster.
    anchor: RedisValue,
    slot: u16,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Store {
    /// Makes the handle and begins to connect. A Redis that is not there is no error here: it may come.
    pub fn open(endpoint: &str, prefix: &str) -> Result<Self, StoreError> {
        let anchor = format!("{prefix}pending-sessions");
        Ok(Self {
            connection: Connection::open(endpoint)?,
            scripts: Scripts::new(),
            prefix: prefix.to_owned(),
            slot: redis_keyslot(anchor.as_bytes()),
            anchor: anchor.into(),
        })
    }

    /// Whether Redis can be worked with: asked as every script is, of the server that holds the keys.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self.call(&self.scripts.ping, json!({})).await?.word()?.as_str() {
            "pong" => Ok(()),
            word => Err(unexpected("ping", word)),
        }
    }

    /// After a pause in which this process may have been frozen.
    pub async fn wake(&self) {
        self.connection.wake(self.ping()).await;
    }

    /// Closes the connection.
    pub async fn close(&self) {
        self.connection.close().await;
    }

    /// A value all processes on this Redis share, made by whoever asks first.
    pub async fn shared_value(&self, name: &str, proposal: &str) -> Result<String, StoreError> {
        let (client, key) = (self.connection.client(), format!("{}{name}", self.prefix));
        let made = client.set(&key, proposal, None, Some(SetOptions::NX), false);
        let () = self.connection.outcome(made).await?;
        self.connection.outcome(client.get(&key)).await
    }

    async fn call(&self, script: &Script, args: Value) -> Result<Reply, StoreError> {
        let args = RedisValue::from(args.to_string());
        let run = async {
            match self.run("EVALSHA", script.sha1(), &args).await {
                // Which server has forgotten it is known only on the way there, so it goes the same way.
                Err(error) if error.details().starts_with("NOSCRIPT") => {
                    self.run("EVAL", script.lua().expect("made from its text"), &args).await
                }
                value => value,
            }
        };
        Reply::new(self.connection.outcome(run).await?)
    }

    async fn run(&self, command: &'static str, script: &Str, args: &RedisValue) -> Result<RedisValue, RedisError> {
        // Not by the library's own calls for scripts: on a cluster that it has not seen yet they fail at once, and this
        // waits for it as any other command.
        let command = CustomCommand::new_static(command, ClusterHash::Custom(self.slot), false);
        let script = RedisValue::String(script.clone());
        self.connection.client().custom(command, vec![script, 1.into(), self.anchor.clone(), args.clone()]).await
    }
}

fn unexpected(script: &str, word: &str) -> StoreError {
    StoreError::Unexpected(format!("{script}: {word:?}"))
}
