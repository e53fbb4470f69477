// Runs the public suite http-cache-tests against an aos-gateway, its origin and its client in this one process.
// How to start it and what came out: cache-suite.md.
//
//   node --no-warnings cache-suite.mjs GATEWAY_PORT ORIGIN_PORT [TEST_ID] > results.json
import http from 'http'
import fetch from 'node-fetch'
import handleConfig from 'http-cache-tests/server/handle-config.mjs'
import handleState from 'http-cache-tests/server/handle-state.mjs'
import handleTest from 'http-cache-tests/server/handle-test.mjs'
import { runTests, getResults } from 'http-cache-tests/client/runner.mjs'
import { determineTestResult } from 'http-cache-tests/lib/display.mjs'
import suites from 'http-cache-tests/tests/index.mjs'
import surrogate from 'http-cache-tests/tests/surrogate-control.mjs'

const [gatewayPort, originPort, only] = process.argv.slice(2)
const base = `http://127.0.0.1:${gatewayPort}`
const CALL = /^\/v2\/stacks\/([^/?]+)\/actions\/[^/?]+/
suites.push(surrogate)

// Behind the gateway: the suite's own origin, its plain test bodies put into settled records.
const origin = http.createServer((request, response) => {
  const call = CALL.exec(request.url)
  const [, kind, ...rest] = request.url.split('/')
  if (!call) return (kind === 'config' ? handleConfig : handleState)(rest, request, response)
  const end = response.end.bind(response)
  response.end = content => content === undefined
    ? end()
    : end(JSON.stringify({
      kind: 'Execution',
      metadata: { name: call[1] },
      spec: { actionName: 'apply', onFailureStrategy: 'DoNothing' },
      status: { actionName: 'apply', objectStatus: { phase: 'Succeeded' } },
      text: content
    }))
  return handleTest([call[1]], request, response)
})
// The suite talks on standard output, where the results go.
console.log = console.error

// Before the gateway: the suite's own client, asking for the execution call with a token.
function ask (url, init = {}) {
  const test = /^(.*)\/test\/([^/?]+)(.*)$/.exec(url)
  if (!test) return fetch(url, init)
  const [, at, id, extra] = test
  const headers = [...init.headers, ['X-Auth-Token', 'a-token']]
  return fetch(`${at}/v2/stacks/${id}/actions/${id}${extra}`, { ...init, headers }).then(response => {
    const text = response.text.bind(response)
    response.text = async () => {
      const body = await text()
      try { return JSON.parse(body).text ?? body } catch { return body }
    }
    return response
  })
}

origin.listen(Number(originPort), '127.0.0.1', async () => {
  const chosen = suites
    .map(suite => ({ ...suite, tests: suite.tests.filter(test => !only || test.id === only) }))
    .filter(suite => suite.tests.length)
  if (only) chosen[0].tests[0].dump = true
  await runTests(chosen, ask, false, base)
  const results = getResults()
  const lines = []
  for (const suite of chosen) {
    for (const test of suite.tests) {
      const result = results[test.id]
      if (result === undefined) continue
      lines.push({
        suite: suite.id,
        id: test.id,
        kind: test.kind || 'required',
        pass: result === true,
        shown: determineTestResult(suites, test.id, results)[2],
        alone: determineTestResult(suites, test.id, results, false)[2],
        why: result === true ? '' : `${result[0]}: ${result[1]}`,
        name: test.name
      })
    }
  }
  process.stdout.write(JSON.stringify(lines, null, 1))
  process.exit(0)
})
