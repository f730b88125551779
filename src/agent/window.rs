//! The window of a full Chromium. It has a frame, whose size differs by platform and version, and the page
//! inside must measure what was asked for: so the first window of a size is sized from the inside, and those
//! after it are opened as large as that one turned out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::browser::Endpoint;
use super::devtools::{Conversation, DevtoolsError};
use crate::browser_settings::Viewport;

/// How often it is looked whether the page has taken its size.
const POLL: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(5);
/// No window is opened narrower (measured, 156), though one can be made so afterwards.
const NARROWEST: u32 = 500;

/// How large windows must be for pages of some sizes.
#[derive(Clone, Default)]
pub struct Windows(Arc<Mutex<HashMap<Viewport, Viewport>>>);

impl Windows {
    /// What to open for a page of this size, if such a window was opened before.
    pub fn known(&self, page: Viewport) -> Option<Viewport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&page).copied()
    }

    /// Makes the page measure what was asked for, by sizing the window around it, and waits until it does: a
    /// window that is still being laid out takes a size and loses it again.
    ///
    /// A platform may have a smallest window; the session is then better served with another viewport than not.
    pub async fn size(&self, endpoint: &Endpoint, target: &str, page: Viewport) -> Result<(), DevtoolsError> {
        match tokio::time::timeout(DEADLINE, size_page(endpoint, target, page)).await {
            Ok(window) => {
                let window = window?;
                if page.width >= NARROWEST {
                    self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(page, window);
                }
            }
            Err(_) => tracing::warn!("the browser's window does not take the size that was asked for"),
        }
        Ok(())
    }
}

/// Returns what the window measures in the end.
async fn size_page(endpoint: &Endpoint, target: &str, page: Viewport) -> Result<Viewport, DevtoolsError> {
    let mut conversation = Conversation::open(endpoint).await?;
    let window = conversation.call(None, "Browser.getWindowForTarget", &json!({ "targetId": target })).await?;
    let attach = json!({ "targetId": target, "flatten": true });
    let attached = conversation.call(None, "Target.attachToTarget", &attach).await?;
    let session = attached["sessionId"].as_str().unwrap_or_default();
    let question = json!({ "expression": "[innerWidth, innerHeight, outerWidth, outerHeight]", "returnByValue": true });
    let size = json!({ "windowId": window["windowId"], "width": page.width, "height": page.height });
    loop {
        let answer = conversation.call(Some(session), "Runtime.evaluate", &question).await?;
        let sizes: Option<[u32; 4]> = serde_json::from_value(answer["result"]["value"].clone()).ok();
        if let Some([inner_width, inner_height, width, height]) = sizes
            && (Viewport { width: inner_width, height: inner_height }) == page
        {
            return Ok(Viewport { width, height });
        }
        conversation.call(None, "Browser.setContentsSize", &size).await?;
        tokio::time::sleep(POLL).await;
    }
}
