// A job's life with mindzie's published calls, in their order: submit, poll every two seconds, read
// the results and the status of the system. What it reads of them is one JSON document.
const [base, tenant, project, resource, token] = process.argv.slice(2);
const jobs = `${base}/api/${tenant}/${project}/execution`;
const headers = { Authorization: `Bearer ${token}` };
const read = async (url, options = {}) => {
  const response = await fetch(url, { headers, ...options });
  return await response.json();
};

const submitted = await read(`${jobs}/job`, {
  method: 'POST',
  headers: { 'Content-Type': 'application/json', ...headers },
  body: JSON.stringify({
    jobName: 'Customer Behavior Analysis',
    jobDescription: 'Weekly analysis of customer interaction patterns',
    jobType: 'ProcessMining',
    priority: 'High',
    resource: { resourceType: 'Pipeline', resourceId: resource },
    parameters: {
      datasetId: '880e8400-e29b-41d4-a716-446655440000',
      analysisType: 'comprehensive',
      timeWindow: { startDate: '2024-01-13', endDate: '2024-01-19' },
      includeAnomalyDetection: true,
      outputFormat: 'detailed_report',
    },
    scheduling: { executeImmediately: true, timeoutMinutes: 90 },
    notifications: { onCompletion: true, onFailure: true, emailRecipients: ['analyst@company.com'] },
  }),
});
const polls = [];
const poll = async () => {
  const job = await read(`${jobs}/job/${submitted.jobId}`);
  const { percentage, currentStage, estimatedCompletion } = job.progress;
  polls.push({ status: job.status, percentage, currentStage, estimatedCompletion });
  if (job.status === 'Running' || job.status === 'Queued') {
    await new Promise((resolve) => setTimeout(resolve, 2000));
    return await poll();
  }
  return job;
};
const ended = await poll();
const results = await read(
  `${jobs}/job/${submitted.jobId}/results?format=detailed&includeArtifacts=true`,
);
const system = await read(`${base}/api/${tenant}/execution/system/status`);
console.log(JSON.stringify({
  jobId: submitted.jobId,
  queuePosition: submitted.queuePosition,
  estimatedStartTime: submitted.estimatedStartTime,
  polls,
  error: ended.error,
  summary: results.summary,
  primary: results.results.primaryOutput.downloadUrl,
  others: results.results.additionalOutputs.map((output) => [output.type, output.downloadUrl]),
  systemStatus: system.systemStatus,
  queued: system.queueStatistics.totalQueuedJobs,
  averageWaitTime: system.queueStatistics.averageWaitTime,
}));
