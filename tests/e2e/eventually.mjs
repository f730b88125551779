// Waiting for conditions, never for time.

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Calls `look` until it answers something truthy, and returns that. A look that throws counts as "not yet".
 * Past the deadline it fails, and says what was seen last.
 */
export async function eventually(description, look, deadlineMs = 10_000) {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    let seen;
    try {
      seen = await look();
      if (seen) return seen;
    } catch (error) {
      seen = error;
    }
    if (Date.now() > deadline) {
      const last = seen instanceof Error ? String(seen) : JSON.stringify(seen);
      throw new Error(`not within ${deadlineMs} ms: ${description}; last seen: ${last}`);
    }
    await pause(25);
  }
}

/** What `promise` gives, or a failure that says what was awaited. */
export async function within(deadlineMs, description, promise) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`not within ${deadlineMs} ms: ${description}`)), deadlineMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
