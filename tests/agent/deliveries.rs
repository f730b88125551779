//! What the container delivers to gateway clients, taken as the control plane takes it: in order, and none twice.

use std::collections::{HashMap, VecDeque};
use std::io;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use wallcrawler::ids::ConnectionId;
use wallcrawler::protocol::{BATCH_BYTES, BATCH_MESSAGES, DeliverRequest, DeliverResponse, GATEWAY_MESSAGE_BYTES};

use crate::control_plane::ControlPlane;

/// What becomes of one delivery, where it is not simply taken.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// Taken, and then this is what the container gets.
    TakenAnd(u16),
    /// Taken, and the answer breaks off.
    TakenAndCut,
    /// Only so many are taken.
    Partly(usize),
    /// Nothing is taken, and the answer is this.
    Refused(u16),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub connection: ConnectionId,
    pub first: u64,
    pub again: bool,
    pub messages: Vec<Value>,
}

#[derive(Default)]
pub struct Deliveries {
    /// For the next ones, in turn.
    pub fates: VecDeque<Fate>,
    /// They wait for as long as this is set.
    pub held: bool,
    pub requests: Vec<Delivery>,
    pub under_way: HashMap<ConnectionId, usize>,
    /// What each client has got.
    clients: HashMap<ConnectionId, Vec<Value>>,
    /// What is wrong with a request; a panic in a handler would fail no test.
    pub faults: Vec<String>,
}

impl Deliveries {
    pub fn to(&self, connection: &ConnectionId) -> &[Value] {
        self.clients.get(connection).map_or(&[], Vec::as_slice)
    }

    fn take(&mut self, delivery: Delivery, fate: Option<Fate>) -> usize {
        let Delivery { connection, first, again, messages } = delivery.clone();
        self.requests.push(delivery);
        let count = match fate {
            Some(Fate::Refused(_)) => return 0,
            Some(Fate::Partly(count)) => count,
            _ => messages.len(),
        };
        let got = self.clients.entry(connection).or_default();
        let first = usize::try_from(first).expect("few");
        if first > got.len() || (!again && first != got.len()) {
            self.faults.push(format!("first is {first} (again: {again}), and the client has {}", got.len()));
            return 0;
        }
        let known = got.len() - first;
        got.extend(messages.into_iter().take(count).skip(known));
        count
    }
}

/// `POST /connections/{id}/messages`
pub async fn deliver(
    State(plane): State<ControlPlane>,
    Path(connection): Path<ConnectionId>,
    headers: HeaderMap,
    Json(request): Json<DeliverRequest>,
) -> Response {
    if let Some(status) = plane.refuse(&headers) {
        return status.into_response();
    }
    let bytes: usize = request.messages.iter().map(|message| message.get().len()).sum();
    let largest = request.messages.iter().map(|message| message.get().len()).max().unwrap_or(0);
    plane.now(|script| {
        let deliveries = &mut script.deliveries;
        let under_way = deliveries.under_way.entry(connection.clone()).or_default();
        *under_way += 1;
        if *under_way > 1 {
            deliveries.faults.push("two at a time".to_owned());
        }
        let count = request.messages.len();
        if count == 0 || count > BATCH_MESSAGES || bytes > BATCH_BYTES || largest > GATEWAY_MESSAGE_BYTES {
            deliveries.faults.push(format!("{count} messages, {bytes} bytes, the largest {largest}"));
        }
    });
    plane.until("held for ever", |script| (!script.deliveries.held).then_some(()), |_| ()).await;
    let messages = request
        .messages
        .iter()
        .map(|message| serde_json::from_str(message.get()).unwrap_or_else(|_| message.get().into()))
        .collect();
    let delivery = Delivery { connection: connection.clone(), first: request.first, again: request.again, messages };
    let (delivered, fate) = plane.now(|script| {
        let fate = script.deliveries.fates.pop_front();
        script.deliveries.under_way.insert(connection, 0);
        (script.deliveries.take(delivery, fate), fate)
    });
    match fate {
        Some(Fate::TakenAnd(status) | Fate::Refused(status)) => {
            StatusCode::from_u16(status).expect("a status").into_response()
        }
        Some(Fate::TakenAndCut) => {
            let cut = futures_util::stream::iter([
                Ok(Bytes::from_static(b"{\"success\"")),
                Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            ]);
            Body::from_stream(cut).into_response()
        }
        _ => Json(DeliverResponse { success: true, delivered }).into_response(),
    }
}
