// The comparator of cold starts: import the handler, call it once, print the answer. Usage: once.mjs FOLDER EVENT
const { handler } = await import(process.argv[2] + "/index.mjs");
console.log(JSON.stringify(await handler(JSON.parse(process.argv[3]))));
