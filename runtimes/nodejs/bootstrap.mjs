// Entry point of Tidegate's Node.js runtime; ../README.md describes the channel it speaks.

import { waitForFunction } from "./tidegate/assignment.mjs";
import { start } from "./tidegate/instance.mjs";

if (process.env.TIDEGATE_WAITS) {
  waitForFunction();
}
await start(import.meta.url);
