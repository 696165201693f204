// What a function in CommonJS may look like, for rehearsals.

const { sep } = require("node:path");

exports.handler = async (event) => ({ event, sep });
