// Entry point of Tidegate's Node.js runtime; ../README.md describes the channel it speaks.

import { rehearse, waitForFunction } from "./tidegate/assignment.mjs";
import { start } from "./tidegate/instance.mjs";

if (process.env.TIDEGATE_WAITS) {
  await rehearse(import.meta.url);
  waitForFunction();
}
await start(import.meta.url);
