// Prints each event of a stream as a line of JSON, until the server has no more:
// node follow.mjs ADDRESS KEY
import { EventSource } from "eventsource";

const [address, key] = process.argv.slice(2);
const send = (url, init) =>
  fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${key}` } });
const source = new EventSource(address, { fetch: send });
source.onmessage = ({ lastEventId, data }) =>
  console.log(JSON.stringify({ id: lastEventId, data: JSON.parse(data) }));
source.onerror = ({ code, message }) => {
  if (source.readyState === EventSource.CLOSED) {
    process.exitCode = code === 204 ? 0 : 1;
    if (code !== 204) console.error(code, message);
  }
};
