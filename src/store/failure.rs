//! Why Redis could not be asked: the one place that reads what Redis and its client library say about it. To a client
//! of ours all of it is the same, to whoever reads the log it is not.

use fred::error::{Error as RedisError, ErrorKind};

/// Each says what is so, and what to do about it where that is not plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("it cannot be reached")]
    Unreachable,
    #[error("it does not answer in time")]
    Silent,
    #[error("its certificate is not accepted; trusted are the system's authorities, or those in SSL_CERT_FILE")]
    Untrusted,
    #[error("it is reached, but no TLS connection can be made; rediss:// is for a port that speaks TLS")]
    NoTls,
    #[error("it does not accept the user and password in REDIS_ENDPOINT")]
    NotAuthenticated,
    #[error("its ACL does not let this user do all that is needed")]
    NotPermitted,
    #[error("it is not the primary any more")]
    NotPrimary,
    #[error("it is loading its data")]
    Loading,
    #[error("its memory is full")]
    MemoryFull,
    #[error("somebody's script keeps it busy")]
    Busy,
    #[error("it has too few replicas to take writes")]
    TooFewReplicas,
    #[error("it cannot save to its disk, and takes no writes until it can")]
    CannotSave,
    #[error("the cluster is down")]
    ClusterDown,
    #[error(
        "it is a cluster: REDIS_ENDPOINT must begin with redis-cluster:// or rediss-cluster://, and KEY_PREFIX must hold a hash tag, as in {{wallcrawler}}:"
    )]
    IsCluster,
    #[error("it is no cluster: REDIS_ENDPOINT must begin with redis:// or rediss://")]
    NoCluster,
    #[error("it is older than Redis 7.0, which scripts need")]
    TooOld,
    #[error("it refuses")]
    Other,
}

impl Failure {
    pub fn of(error: &RedisError) -> Self {
        let details = error.details();
        // What Redis says begins with a code.
        match details.split(' ').next().unwrap_or_default() {
            "READONLY" | "MASTERDOWN" => return Failure::NotPrimary,
            "LOADING" => return Failure::Loading,
            "OOM" => return Failure::MemoryFull,
            "BUSY" => return Failure::Busy,
            "NOREPLICAS" => return Failure::TooFewReplicas,
            "MISCONF" => return Failure::CannotSave,
            "CLUSTERDOWN" => return Failure::ClusterDown,
            "NOAUTH" | "WRONGPASS" => return Failure::NotAuthenticated,
            "NOPERM" => return Failure::NotPermitted,
            // A client that is told of the cluster follows these.
            "MOVED" | "ASK" | "CROSSSLOT" => return Failure::IsCluster,
            _ => {}
        }
        let says = |text: &str| details.contains(text);
        if says("non local key") || says("do not hash to the same slot") {
            Failure::IsCluster
        } else if says("missing cluster state") {
            Failure::ClusterDown
        } else if says("cluster support disabled") {
            Failure::NoCluster
        } else if says("unexpected symbol near '#'") {
            Failure::TooOld
        } else if says("AUTH <password> called without") {
            Failure::NotAuthenticated
        } else if says("InvalidCertificate") {
            Failure::Untrusted
        } else if says("InvalidMessage") || says("AlertReceived") || *error.kind() == ErrorKind::Tls {
            Failure::NoTls
        } else {
            match error.kind() {
                ErrorKind::Timeout => Failure::Silent,
                ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Routing => Failure::Unreachable,
                // Of ever new connections.
                _ if says("failed write attempts") => Failure::Unreachable,
                ErrorKind::Auth => Failure::NotAuthenticated,
                ErrorKind::Cluster => Failure::ClusterDown,
                _ => Failure::Other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for (kind, details, failure) in [
            (ErrorKind::Cluster, "MOVED 1234 10.0.0.1:6379", Failure::IsCluster),
            (
                ErrorKind::Unknown,
                "ERR Script attempted to access a non local key in a cluster node script: 1f0e, on @user_script:2",
                Failure::IsCluster,
            ),
            (
                ErrorKind::Unknown,
                "ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'",
                Failure::TooOld,
            ),
            (
                ErrorKind::Unknown,
                "ERR AUTH <password> called without any password configured for the default user.",
                Failure::NotAuthenticated,
            ),
            (ErrorKind::Protocol, "Invalid or missing cluster state.", Failure::ClusterDown),
            (ErrorKind::Unknown, "Too many failed write attempts.", Failure::Unreachable),
            (ErrorKind::Routing, "Too many redirections.", Failure::Unreachable),
            (ErrorKind::Timeout, "Request timed out.", Failure::Silent),
            (ErrorKind::Unknown, "ERR unknown command 'EVALSHA'", Failure::Other),
        ] {
            assert_eq!(Failure::of(&RedisError::new(kind, details)), failure, "{details}");
        }
    }
}
