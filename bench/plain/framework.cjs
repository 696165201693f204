// The same handler for Google's functions framework.
const loaded = import(process.env.BENCH_FUNCTION + "/index.mjs");

exports.serve = async (request, response) => {
  const { handler } = await loaded;
  response.json(await handler(request.body));
};
