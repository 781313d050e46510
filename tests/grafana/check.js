// Compiles a dashboard against Grafana's own types: node check.js DASHBOARD.json
// Every key must be known and every value of its type, also in the options of each kind of panel. Enums are taken by
// their values, as they stand in JSON. Exit status 1 and the compiler's messages where something does not fit.
const fs = require('node:fs');
const path = require('node:path');
const ts = require('typescript');

const OPTIONS = { timeseries: 'timeseries/panelcfg/x/TimeSeriesPanelCfg', stat: 'stat/panelcfg/x/StatPanelCfg', table: 'table/panelcfg/x/TablePanelCfg' };
const dashboard = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const lines = [`import type { Dashboard } from '@grafana/schema';`];
for (const [kind, file] of Object.entries(OPTIONS)) {
  lines.push(`import type * as ${kind} from '@grafana/schema/dist/esm/raw/composable/${file}_types.gen.d.ts';`);
}
lines.push(
  'type Plain<T> = T extends string ? `${T}` : T extends number ? number',
  '  : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;',
  // Prometheus's own keys of an annotation are no part of the general type.
  `type Prometheus = { expr?: string; titleFormat?: string };`,
  `type Annotation = NonNullable<NonNullable<Dashboard['annotations']>['list']>[number] & Prometheus;`,
  `export const dashboard: Plain<Omit<Dashboard, 'annotations'> & { annotations: { list: Annotation[] } }> = ${JSON.stringify(dashboard, null, 1)};`,
);
for (const panel of dashboard.panels.filter((panel) => panel.type !== 'row')) {
  if (!(panel.type in OPTIONS)) {
    throw new Error(`panel ${panel.id}: add the types of "${panel.type}" to OPTIONS`);
  }
  lines.push(`export const options${panel.id}: Plain<${panel.type}.Options> = ${JSON.stringify(panel.options)};`);
  const custom = panel.fieldConfig.defaults.custom;
  if (custom) {
    lines.push(`export const custom${panel.id}: Plain<Partial<${panel.type}.FieldConfig>> = ${JSON.stringify(custom)};`);
  }
}

const name = path.join(__dirname, 'dashboard.generated.ts');
const options = { strict: true, noEmit: true, skipLibCheck: true, types: [], module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler, target: ts.ScriptTarget.ES2022 };
const host = ts.createCompilerHost(options);
const { readFile, fileExists, getSourceFile } = host;
const text = lines.join('\n');
host.fileExists = (file) => file === name || fileExists(file);
host.readFile = (file) => (file === name ? text : readFile(file));
host.getSourceFile = (file, ...rest) => (file === name ? ts.createSourceFile(file, text, options.target) : getSourceFile(file, ...rest));
const problems = ts.getPreEmitDiagnostics(ts.createProgram([name], options, host));
if (problems.length > 0) {
  console.error(ts.formatDiagnostics(problems, { ...host, getCurrentDirectory: () => __dirname }));
  process.exit(1);
}
