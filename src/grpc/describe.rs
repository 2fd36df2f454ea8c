//! Converts descriptions of the server and its models to messages.

use open_inference::model_input::Format;
use open_inference::model_instance_group::Kind;
use open_inference::model_metadata_response::TensorMetadata;
use open_inference::model_version_policy::{Latest, PolicyChoice};
use open_inference::repository_index_response::ModelIndex;
use open_inference::{
    DataType, InferBatchStatistics, InferStatistics, ModelConfigResponse, ModelDynamicBatching,
    ModelInput, ModelInstanceGroup, ModelMetadataResponse, ModelOutput, ModelStatisticsResponse,
    ModelVersionPolicy, RepositoryIndexResponse, ServerMetadataResponse, StatisticDuration,
};

use crate::inference::{
    self, BatchStatistics, DurationCount, DurationStatistics, IndexEntry, ModelConfig,
    ModelMetadata, ModelStatistics, ServerMetadata,
};

pub(super) fn server(metadata: &ServerMetadata) -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: metadata.name.to_owned(),
        version: metadata.version.to_owned(),
        extensions: metadata.extensions.map(str::to_owned).into(),
    }
}

pub(super) fn metadata(metadata: ModelMetadata) -> ModelMetadataResponse {
    let tensor = |tensor: inference::TensorMetadata| TensorMetadata {
        name: tensor.name,
        datatype: tensor.datatype.to_owned(),
        shape: tensor.shape,
    };
    ModelMetadataResponse {
        name: metadata.name,
        versions: metadata.versions.map(str::to_owned).into(),
        platform: metadata.platform.to_owned(),
        inputs: metadata.inputs.into_iter().map(tensor).collect(),
        outputs: metadata.outputs.into_iter().map(tensor).collect(),
        properties: metadata
            .properties
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

pub(super) fn config(config: ModelConfig) -> ModelConfigResponse {
    let input = config.input.into_iter().map(|input| ModelInput {
        name: input.name.to_owned(),
        data_type: data_type(&input.data_type),
        format: Format::from_str_name(input.format)
            .unwrap_or_default()
            .into(),
        dims: input.dims,
        ..ModelInput::default()
    });
    let output = config.output.into_iter().map(|output| ModelOutput {
        name: output.name,
        data_type: data_type(&output.data_type),
        dims: output.dims,
        label_filename: output.label_filename.unwrap_or_default(),
    });
    let group = config
        .instance_group
        .into_iter()
        .map(|group| ModelInstanceGroup {
            name: group.name,
            count: group.count as i32,
            kind: Kind::from_str_name(group.kind).unwrap_or_default().into(),
        });
    let latest = Latest {
        num_versions: config.version_policy.latest.num_versions,
    };
    let config = open_inference::ModelConfig {
        name: config.name,
        platform: config.platform.to_owned(),
        backend: config.backend.to_owned(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(PolicyChoice::Latest(latest)),
        }),
        max_batch_size: config.max_batch_size as i32,
        input: input.collect(),
        output: output.collect(),
        instance_group: group.collect(),
        dynamic_batching: Some(ModelDynamicBatching {
            max_queue_delay_microseconds: config.dynamic_batching.max_queue_delay_microseconds,
        }),
        ..open_inference::ModelConfig::default()
    };
    ModelConfigResponse {
        config: Some(config),
    }
}

fn data_type(name: &str) -> i32 {
    DataType::from_str_name(name).unwrap_or_default().into()
}

pub(super) fn statistics(statistics: Vec<ModelStatistics>) -> ModelStatisticsResponse {
    let model = |model: ModelStatistics| open_inference::ModelStatistics {
        name: model.name,
        version: model.version.to_owned(),
        last_inference: model.last_inference,
        inference_count: model.inference_count,
        execution_count: model.execution_count,
        inference_stats: Some(durations(&model.inference_stats)),
        batch_stats: model.batch_stats.iter().map(batch).collect(),
    };
    ModelStatisticsResponse {
        model_stats: statistics.into_iter().map(model).collect(),
    }
}

fn durations(stats: &DurationStatistics) -> InferStatistics {
    InferStatistics {
        success: duration(stats.success),
        fail: duration(stats.fail),
        queue: duration(stats.queue),
        compute_input: duration(stats.compute_input),
        compute_infer: duration(stats.compute_infer),
        compute_output: duration(stats.compute_output),
        cache_hit: duration(stats.cache_hit),
        cache_miss: duration(stats.cache_miss),
    }
}

fn batch(batch: &BatchStatistics) -> InferBatchStatistics {
    InferBatchStatistics {
        batch_size: batch.batch_size as u64,
        compute_input: duration(batch.compute_input),
        compute_infer: duration(batch.compute_infer),
        compute_output: duration(batch.compute_output),
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "every field of the message that is a message is optional"
)]
fn duration(DurationCount { count, ns }: DurationCount) -> Option<StatisticDuration> {
    Some(StatisticDuration { count, ns })
}

pub(super) fn index(entries: Vec<IndexEntry>) -> RepositoryIndexResponse {
    let model = |entry: IndexEntry| ModelIndex {
        name: entry.name,
        version: entry.version.to_owned(),
        state: entry.state.to_owned(),
        reason: entry.reason,
    };
    RepositoryIndexResponse {
        models: entries.into_iter().map(model).collect(),
    }
}
