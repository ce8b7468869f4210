// Serves one request on loopback and reads it back.
var assert = require('assert')
var http = require('http')

var server = http.createServer(function (request, response) {
  response.setHeader('Content-Type', 'text/plain')
  response.end('hello ' + request.url)
})

server.listen(0, '127.0.0.1', function () {
  http.get({ host: '127.0.0.1', port: server.address().port, path: '/igraph', agent: false }, function (response) {
    var body = ''
    response.on('data', function (part) { body += part })
    response.on('end', function () {
      assert.equal(response.statusCode, 200)
      assert.equal(body, 'hello /igraph')
      console.log('node ' + process.version + ' serves')
      server.close()
    })
  })
})
