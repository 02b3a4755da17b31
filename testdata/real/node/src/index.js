'use strict';

const ms = require('ms');
const colors = require('picocolors');
const { seasoned } = require('./season');

const { bold } = colors.createColors(false);
console.log(`${bold('cooper')} ${process.env.NODE_ENV}: oak is seasoned for ${ms(seasoned('oak'), { long: true })}`);
