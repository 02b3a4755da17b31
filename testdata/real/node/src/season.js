'use strict';

const ms = require('ms');

const TIMES = { oak: '700 days', ash: '365 days' };

/** How long a kind of wood lies before it becomes a cask, in milliseconds. */
function seasoned(wood) {
  return ms(TIMES[wood]);
}

module.exports = { seasoned };
