var assert = require('assert')
assert.equal(require('./answer.node').answer(6), 42)
console.log('node ' + process.version + ' loads what was compiled against its headers')
