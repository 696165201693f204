// Entry point of Tidegate's Node.js runtime; ../README.md describes the channel it speaks.

import { start } from "./tidegate/instance.mjs";

await start(import.meta.url);
