'use strict';

const assert = require('node:assert');
const test = require('node:test');
const isNumber = require('is-number');
const { seasoned } = require('../src/season');

test('wood is seasoned for a number of milliseconds', () => {
  assert.ok(isNumber(seasoned('oak')));
});
