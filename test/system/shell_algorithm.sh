#!/bin/sh
# An algorithm that holds nothing of the platform's: a shell, aws, jq and curl. Its result is its input.
# A job's parameter "try" lists arguments of aws that it runs, too; the result says how each of them ended.
while :; do
    received=$(aws sqs receive-message --queue-url "$QUEUE_URL" --wait-time-seconds 20 --output json) || sleep 1
    [ -n "$received" ] || continue
    handle=$(printf %s "$received" | jq -r '.Messages[0].ReceiptHandle')
    job=$(printf %s "$received" | jq -r '.Messages[0].Body')
    of_job() { printf %s "$job" | jq -r "$1"; }
    id=$(of_job .job_id) study=$(of_job .pacs.study_id) series=$(of_job .pacs.series_id) image=$(of_job .pacs.image_id)

    link=$(curl -sf -H "x-api-key: $PACS_API_KEY" "$PACS_API_BASE/studies/$study/images/$series/$image" | jq -r .url)
    curl -sf -o /tmp/image.dcm "$link"
    key="$ALGO_ID/$study/$series/${image}_$id.dcm"
    aws s3 cp --quiet /tmp/image.dcm "s3://$OUTPUT_BUCKET/$key"

    tried='[]'
    for number in $(of_job '.parameters.try // [] | keys[]'); do
        eval "aws $(of_job ".parameters.try[$number] | @sh")" >/tmp/said 2>&1
        tried=$(printf %s "$tried" | jq --argjson status $? --rawfile said /tmp/said '. + [{$status, $said}]')
    done
    result=$(jq -n --arg job_id "$id" --arg algo_id "$ALGO_ID" --arg bucket "$OUTPUT_BUCKET" --arg key "$key" \
        --argjson tried "$tried" '{$job_id, $algo_id, dicom: {$bucket, $key}, provenance: {$tried}}')
    aws sqs send-message --queue-url "$RESULT_QUEUE" --message-body "$result" \
        --message-group-id "$id" --message-deduplication-id "$id-result" >/tmp/said &&
        aws sqs delete-message --queue-url "$QUEUE_URL" --receipt-handle "$handle"
done
