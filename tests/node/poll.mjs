// Polls an address with pauses, and prints how many connections that took and what failed:
// node poll.mjs ADDRESS POLLS SECONDS
import { subscribe } from "node:diagnostics_channel";
import { setTimeout } from "node:timers/promises";

const [address, polls, seconds] = process.argv.slice(2);
const result = { connections: 0, failures: [] };
subscribe("undici:client:connected", () => (result.connections += 1));
for (let n = 0; n < Number(polls); n += 1) {
  if (n) await setTimeout(Number(seconds) * 1000);
  try {
    const answer = await fetch(address);
    await answer.text();
    if (!answer.ok) result.failures.push(`${answer.status}`);
  } catch (error) {
    result.failures.push(String(error.cause ?? error));
  }
}
console.log(JSON.stringify(result));
