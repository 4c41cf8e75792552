//! The reference of the SQL functions, made from the comments over them.

use crate::install::Module;

const PREFACE: &str = "\
<!-- Written by: skytide docs --write docs -->

# SQL functions

What `skytide install` puts into a database, from the comments over the functions in `sql/`. Functions marked as
Skytide's addition are not in PgQ or Londiste. Functions of `pgq_node` and `londiste` that answer with `ret_code` and
`ret_note` have done their work below 300, warn below 400, and from 400 on want their transaction rolled back.
";

/// `docs/sql.md`.
pub fn page() -> String {
    let mut page = PREFACE.to_owned();
    for module in Module::ALL {
        page.push_str(&format!("\n## {module}\n"));
        let mut heading = "";
        for (group, sql) in module.public_functions() {
            if group != heading {
                heading = group;
                page.push_str(&format!("\n### {group}\n"));
            }
            functions(sql)
                .iter()
                .for_each(|function| page.push_str(&function.markdown()));
        }
    }
    page
}

/// A function's comment and its declaration.
#[derive(Default)]
struct Function<'a> {
    /// `schema.name(arguments)`, in words.
    title: String,
    purpose: String,
    /// Parameters, results, errors: kept aligned as they were written.
    details: Vec<&'a str>,
    declaration: Vec<&'a str>,
}

impl Function<'_> {
    fn markdown(&self) -> String {
        let mut text = format!("\n#### {}\n\n{}\n", self.title, upper_first(&self.purpose));
        text.push_str(&format!("\n```sql\n{}\n```\n", self.declaration.join("\n")));
        if !self.details.is_empty() {
            text.push_str(&format!("\n```text\n{}\n```\n", self.details.join("\n")));
        }
        text
    }
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// The functions of a file: a comment, then `create or replace function … as $$`. Comments of function
/// bodies are indented, and a file's other statements have none of this form.
fn functions(sql: &str) -> Vec<Function<'_>> {
    let mut functions: Vec<Function<'_>> = Vec::new();
    let mut part = Part::Elsewhere;
    for line in sql.lines() {
        let comment = line.strip_prefix("--");
        part = match (part, comment) {
            (Part::Title | Part::Purpose | Part::Details, None) if line.starts_with(CREATE) => {
                Part::Declaration
            }
            (Part::Title | Part::Purpose | Part::Details, None) => Part::Elsewhere,
            (Part::Elsewhere, Some(comment)) if is_title(comment) => {
                functions.push(Function::default());
                Part::Title
            }
            (part, _) => part,
        };
        let Some(function) = functions.last_mut() else {
            continue;
        };
        let comment = comment.map(|text| text.strip_prefix("   ").unwrap_or(text.trim_start()));
        part = match (part, comment) {
            (Part::Title | Part::Purpose, Some(text)) => read_head(function, part, text),
            (Part::Details, Some(text)) => {
                function.details.push(text);
                Part::Details
            }
            (Part::Declaration, _) => read_declaration(function, line),
            (part, _) => part,
        };
    }
    functions
}

const CREATE: &str = "create or replace function ";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Elsewhere,
    /// Up to the colon; long argument lists take more than one line.
    Title,
    Purpose,
    Details,
    Declaration,
}

/// ` schema.name(…`
fn is_title(comment: &str) -> bool {
    let name = comment.trim_start().split('(').next().unwrap_or_default();
    comment.contains('(')
        && name.contains('.')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_'))
}

fn read_head<'a>(function: &mut Function<'a>, part: Part, text: &'a str) -> Part {
    let join = |whole: &mut String, more: &str| {
        if !whole.is_empty() {
            whole.push(' ');
        }
        whole.push_str(more.trim());
    };
    match part {
        Part::Title => match text.split_once("):") {
            Some((title, purpose)) => {
                join(&mut function.title, &format!("{title})"));
                join(&mut function.purpose, purpose);
                Part::Purpose
            }
            None => {
                join(&mut function.title, text);
                Part::Title
            }
        },
        // A word, then two spaces or more: the first of the details.
        Part::Purpose if text.trim_start().contains("  ") => {
            function.details.push(text);
            Part::Details
        }
        _ => {
            join(&mut function.purpose, text);
            Part::Purpose
        }
    }
}

fn read_declaration<'a>(function: &mut Function<'a>, line: &'a str) -> Part {
    let text = line.strip_prefix(CREATE).unwrap_or(line);
    let (text, ends) = match text.find("as $") {
        Some(at) => (text.get(..at).unwrap_or_default(), true),
        None => (text, false),
    };
    if !text.trim().is_empty() {
        function.declaration.push(text.trim_end());
    }
    if ends { Part::Elsewhere } else { Part::Declaration }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
-- s.f(queue, long
--   list): do a thing that takes
--   two lines
--   returns  1
--            or 0
create or replace function s.f(
    i_queue text)
returns integer as $$
begin
    -- s.g(x): not this
end;
$$ language plpgsql;

-- s.f(): the same for all
create or replace function s.f() returns integer as $$
";

    #[test]
    fn comments_and_declarations_are_taken_apart() {
        let found = functions(FILE);
        let titles: Vec<&str> = found.iter().map(|function| function.title.as_str()).collect();
        assert_eq!(titles, ["s.f(queue, long list)", "s.f()"]);
        assert_eq!(found[0].purpose, "do a thing that takes two lines");
        assert_eq!(found[0].details, ["returns  1", "         or 0"]);
        assert_eq!(
            found[0].declaration,
            ["s.f(", "    i_queue text)", "returns integer"]
        );
        assert_eq!(found[1].declaration, ["s.f() returns integer"]);
    }

    #[test]
    fn every_public_function_is_complete() {
        for module in Module::ALL {
            for (group, sql) in module.public_functions() {
                let found = functions(sql);
                let declared = sql.lines().filter(|line| line.starts_with(CREATE)).count();
                assert_eq!(found.len(), declared, "{group}: {sql}");
                for function in found {
                    assert!(!function.purpose.is_empty(), "{}", function.title);
                    assert!(!function.declaration.is_empty(), "{}", function.title);
                }
            }
        }
    }
}
